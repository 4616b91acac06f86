# SPDX-License-Identifier: Apache-2.0
"""pytest for livepatches: the plugin, and what only it needs."""
