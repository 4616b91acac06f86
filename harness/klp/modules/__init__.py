# SPDX-License-Identifier: Apache-2.0
"""Livepatch sources and a kernel to .ko files, through Kbuild in a scratch copy; touches no guest.

`sources.find_source` says what the user's word stands for, `build.build` makes modules of it,
`modinfo` reads any .ko, and `plan` reads what a livepatch is expected to do.
"""
