# SPDX-License-Identifier: Apache-2.0
"""One livepatch in one guest: what is done to it, and what must be seen meanwhile. Nothing here prints."""
