# SPDX-License-Identifier: Apache-2.0
"""Run and check folders: written, found, read into one value each, judged, compared, made into tables."""
