# SPDX-License-Identifier: Apache-2.0
"""Print the JSON Schema of the events: ``python -m klp.trace.events >probes/events.schema.json``."""

import sys

from klp.trace.events import json_schema

sys.stdout.write(json_schema())
