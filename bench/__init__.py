# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each prints a table and writes JSON, beside its peer and in turn with it. None asserts."""
