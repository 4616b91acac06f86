# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# In front of each hook that downloads: functions that do so in the sight of whoever waits.
#
# apt tells how many bytes it needs, and on standard error, as dlstatus:FILES:PERCENT:WORDS twice a second,
# how many of them have come.
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"

# Run apt-get, which tells how far it is.
told_apt() {
	apt-get --yes -o APT::Sandbox::User=root -o APT::Status-Fd=2 "$@" >&2
}

# Download packages, without what they depend on, into the current folder.
download() {
	# This command of apt's does not say by itself how much it is.
	apt-get -o APT::Sandbox::User=root --print-uris download "$@" |
		awk '{ bytes += $3 } END { printf "Need to get %d B of archives.\n", bytes }' >&2
	told_apt download "$@"
}
