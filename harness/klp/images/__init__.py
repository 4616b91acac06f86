# SPDX-License-Identifier: Apache-2.0
"""Image definitions to root disk, kernel, initrd, toolchain and upstream sources; boots nothing."""
