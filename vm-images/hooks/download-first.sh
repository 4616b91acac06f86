# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# mmdebstrap essential hook: download $PACKAGES and all that they depend on before they are installed in the
# new root, from the cache of which apt takes them then.
#
# mmdebstrap keeps to itself how far the apt is that it runs; of a package of 100 MB nothing would be heard.
set -eu
# shellcheck disable=SC2086,SC2153 # a list of package names, set by the caller
told_apt install --download-only $PACKAGES
