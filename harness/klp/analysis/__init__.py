# SPDX-License-Identifier: Apache-2.0
"""Pure functions: recorded events to transitions, ledgers, sequences and verdicts. Does no I/O."""
