# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# mmdebstrap customize hook: download $PACKAGES, without what they depend on, to /klp in the new root ($1).
set -eu
mkdir -p "$1/klp"
cd "$1/klp"
# shellcheck disable=SC2086,SC2153 # a list of package names, set by the caller
download $PACKAGES
