# SPDX-License-Identifier: Apache-2.0
"""From a source patch to livepatch sources that Kbuild builds, by the touched translation units alone."""
