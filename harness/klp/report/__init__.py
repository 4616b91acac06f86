# SPDX-License-Identifier: Apache-2.0
"""Results as text, tables, pages and files of other tools' formats; judges nothing."""
