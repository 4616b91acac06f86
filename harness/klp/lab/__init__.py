# SPDX-License-Identifier: Apache-2.0
"""A guest ready for work: booted or restored, its probes armed, held by a keeper, or pooled.

Nothing here knows what the guest is for.
"""
