# SPDX-License-Identifier: Apache-2.0
"""A booted guest over SSH: commands, files, livepatch control, kernel log. Starts no QEMU."""
