# SPDX-License-Identifier: Apache-2.0
"""Print the JSON Schema of the events: ``python -m harness.trace.events >probes/events.schema.json``."""

import sys

from harness.trace.events import json_schema

sys.stdout.write(json_schema())
