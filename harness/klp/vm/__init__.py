# SPDX-License-Identifier: Apache-2.0
"""QEMU: its command line, its monitor, its console, its end. Knows nothing of livepatches."""
