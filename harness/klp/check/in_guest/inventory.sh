# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# inventory.sh - what a guest's kernel has at this moment, as text; `klp.analysis.inventory_text` reads it.
#
# Each section begins with a line "=== NAME". Run by the guest's bash in a subshell of the shell that is kept,
# with WALKER (the program walk_kernel.py) and LAYOUT (its argument, JSON; empty: nothing is walked) set.
# In an emulated guest to start a program takes as long as to read a dozen files: so one grep reads all of
# them, and one find finds all names. Packed, for to encrypt the text takes longer than gzip to shrink it.
#
# Left out are klp's own doings: processes of this shell's session. Its files are in /run, which is not
# looked at; its probes in tracefs are in groups klp_*, which the reader leaves out.

# shellcheck disable=SC2153 # set by whoever runs this
coproc WALK { [[ ! $LAYOUT ]] || exec python3 -I -S -E -c "$WALKER" "$LAYOUT" 2>&1; }
# As copies: a subshell, such as each part of a pipe, has not the descriptors of a coprocess.
exec {walked}<&"${WALK[0]}"
exec {go}>&"${WALK[1]}"
eval "exec ${WALK[0]}<&- ${WALK[1]}>&-"
section() { echo "=== $1"; }
shopt -s nullglob
{
    section session
    read -r _ _ _ _ _ session _ </proc/self/stat
    echo "$session"
    section descriptors
    printf '%s\n' /proc/[0-9]*/fd/*
    section files
    tracing=/sys/kernel/tracing
    grep -rs '' /proc/sys /proc/[0-9]*/stat /proc/modules /sys/kernel/debug/kprobes/list \
        $tracing/kprobe_events $tracing/enabled_functions /sys/devices/system/cpu/hotplug/states \
        /proc/interrupts /proc/self/mountinfo /sys/class/net/*/{flags,mtu,address,tx_queue_len} \
        /proc/net/{fib_trie,if_inet6,route,ipv6_route,protocols,ptype} /proc/{vmallocinfo,timer_list} \
        /proc/{filesystems,devices,misc,swaps,iomem,ioports,consoles}
    section names
    # Not below a cache of slabs or an event: its name tells all that its files would. /proc/net is a link to
    # /proc/self/net: what a module makes in init_net.proc_net is there. Not /sys/kernel/debug/tracing: that is
    # tracefs once more, and to look at it mounts it.
    find /sys /dev /proc /proc/net/ /sys/kernel/debug $tracing -xdev \
        \( -path '/proc/[0-9]*' -o -path /sys/kernel/debug/tracing \) -prune -o \
        \( -path '/sys/kernel/slab/*' -o -path "$tracing/*/*/*" \) -prune -print -o -print
    section walked
    # Only now are the open files counted: grep and find have ended.
    exec {go}>&-
    mapfile -t lines <&"$walked"
    printf '%s\n' "${lines[@]}"
} 2>/dev/null | { exec {go}>&- && gzip -1; } | { exec {go}>&- && base64 -w 0; }
