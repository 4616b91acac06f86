# SPDX-License-Identifier: Apache-2.0
"""The scenarios of `klp check`, a file for each kind of thing that is done to a livepatch."""
