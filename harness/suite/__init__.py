# SPDX-License-Identifier: Apache-2.0
"""Scripted lifecycles of livepatches in a guest. Prints nothing."""
