# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# mmdebstrap customize hook: find the newest kernel of series $SERIES and download its packages to
# /klp in the new root ($1), checked against the signed index by apt. Without a $SOURCE its release alone.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
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
# shellcheck disable=SC2086 # a list of package names
apt-get -o APT::Sandbox::User=root download "linux-image-$release" $parts "$SOURCE"
