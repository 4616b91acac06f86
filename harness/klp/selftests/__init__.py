# SPDX-License-Identifier: Apache-2.0
"""The kernel's own livepatch selftests: built, run in pristine guests, judged by our rules as well."""
