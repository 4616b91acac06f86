# SPDX-License-Identifier: Apache-2.0
"""A program that `klp check` ships into a guest: this folder, which imports nothing of the rest of klp."""
