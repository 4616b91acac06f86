# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# mmdebstrap customize hook: find the newest kernel of series $SERIES and download its packages to
# /klp in the new root ($1), checked against the signed index by apt; with $TOOLS, those of a system that builds
# modules for it to /klp/tools as well, in the same go, for both have some of the largest.
# Without a $SOURCE its release alone.
set -eu
# shellcheck disable=SC2153 # SERIES, ARCH and SOURCE are set by the caller
series=$(printf %s "$SERIES" | sed 's/\./\\./g')
# 6.1.0-49-amd64 on bookworm, 6.12.117+deb13-amd64 since trixie; -cloud- and -rt- are other kernels.
pattern="^linux-headers-$series\\.[0-9.]+(\\+deb[0-9]+)?(-[0-9]+)?-$ARCH\$"
release=$(apt-cache search --names-only "$pattern" | cut -d' ' -f1 | sed 's/^linux-headers-//' | sort -V | tail -n 1)
if [ -z "$release" ]; then
	echo "klp: the archive has no kernel of series $SERIES" >&2
	exit 1
fi
mkdir -p "$1/klp"
cd "$1/klp"
echo "$release" >release
[ -n "$SOURCE" ] || exit 0
# Since 7.x the image package is empty and depends on -binary, -base and -modules.
parts=$(apt-cache depends "linux-image-$release" |
	sed -n "s/^ *Depends: \(linux-[a-z]*-\)/\1/p" | grep -F -- "-$release" || true)
mkdir -p tools/partial
if [ -n "$TOOLS" ]; then
	# shellcheck disable=SC2086 # a list of package names
	told_apt -o "Dir::Cache::Archives=$1/klp/tools" --download-only install \
		'?essential' "linux-headers-$release" $TOOLS
fi
rm -rf tools/partial tools/lock
for package in "linux-image-$release" $parts "$SOURCE"; do
	# What the headers depend on is there already.
	if ! mv "tools/$package"_*.deb . 2>/dev/null; then
		missing="${missing:-} $package"
	fi
done
# shellcheck disable=SC2086 # a list of package names
download $missing
