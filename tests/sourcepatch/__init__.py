# SPDX-License-Identifier: Apache-2.0
"""Source patches of which livepatches are made, or must not be: small edits of a kernel's source."""
