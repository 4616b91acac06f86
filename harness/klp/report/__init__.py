# SPDX-License-Identifier: Apache-2.0
"""Results to text and JSON. Computes nothing that a verdict depends on."""
