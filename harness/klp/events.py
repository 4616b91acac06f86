# SPDX-License-Identifier: Apache-2.0
"""The events that a trace is made of, a class each; what their fields mean stands in `klp.trace.events`."""

from klp.trace.events import *  # noqa: F403
from klp.trace.events import __all__  # noqa: F401
