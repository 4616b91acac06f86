# SPDX-License-Identifier: Apache-2.0
"""The text of a kernel log: stamps, alarms, canaries, reports of crashes. Reads no guest."""
