# SPDX-License-Identifier: Apache-2.0
"""A guest ready for work: booted or restored, its probes armed, kept, pooled. Knows of no scenario."""
