# SPDX-License-Identifier: Apache-2.0
"""One livepatch in one guest: what is done to it, what must be seen meanwhile. Prints nothing."""
