# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# mmdebstrap setup hook: add $EXTRA_SUITES beside $SUITE, from the same archive. $1 is the new root.
#
# mmdebstrap has just written the sources for $SUITE; the URI is taken from there, so that no mirror is
# named in this project.
set -eu
list="$1/etc/apt/sources.list"
for extra in $EXTRA_SUITES; do
	sed -n "s/ $SUITE main\$/ $extra main/p" "$list" | head -n 1 >>"$list.extra"
done
if [ -e "$list.extra" ]; then
	cat "$list.extra" >>"$list"
	rm "$list.extra"
fi
