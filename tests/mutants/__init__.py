# SPDX-License-Identifier: Apache-2.0
"""Faulty livepatch cores: does the suite notice? `make mutants` finds out, docs/mutants.md tells."""
