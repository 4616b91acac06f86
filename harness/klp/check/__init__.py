# SPDX-License-Identifier: Apache-2.0
"""The check of a livepatch: driven through its life by scenarios, each in a pristine guest.

`scenario` says what a scenario is and `stage` what it may do; `scenarios/life` has the simplest ones.
"""
