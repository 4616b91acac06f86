# SPDX-License-Identifier: Apache-2.0
"""The `klp` command: reads arguments, calls the library, prints. Holds no logic of its own."""
