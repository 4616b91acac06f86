# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# mmdebstrap customize hook: unpack stress-ng and the libraries it is linked with into the new root ($1).
#
# Unpacked, not installed: installed, it brings Mesa's drivers and another LLVM for its one stressor of
# graphics cards, half a gigabyte, and a guest has no such card.
set -eu
mkdir -p "$1/klp"
cd "$1/klp"
needed=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
	--no-enhances stress-ng | grep '^[a-z]' | grep -Ev 'mesa|gallium|llvm|^libx11|^debconf' | sort -u)
for package in $needed; do
	[ -e "$1/var/lib/dpkg/info/$package.list" ] || ls "$1/var/lib/dpkg/info/$package":*.list >/dev/null 2>&1 ||
		missing="${missing:-} $package"
done
# shellcheck disable=SC2086 # a list of package names
download $missing
for file in *.deb; do
	dpkg-deb --extract "$file" "$1"
done
cd /
rm -r "$1/klp"
chroot "$1" stress-ng --version
