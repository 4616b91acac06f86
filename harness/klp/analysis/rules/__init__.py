# SPDX-License-Identifier: Apache-2.0
"""The rules: each a small function from a history to what it says on one statement of the kernel's."""
