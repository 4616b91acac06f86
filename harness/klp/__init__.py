# SPDX-License-Identifier: Apache-2.0
"""klp: a laboratory for Linux kernel livepatches.

The rooms, from low to high, are listed in docs/architecture.md; a package here imports only from the
packages above it in that list (tests/unit/test_layers.py holds it to that).
"""
