# SPDX-License-Identifier: Apache-2.0
"""What became worse between two sets of runs.

`repetition` makes facts of each repetition; `judge`, with `verdicts` and `times`, holds those of one set
against those of the other; `drafts` has differences that are not graded yet, `ranks` the statistics, and
`sets` puts it all together: `compare_sets`.
"""
