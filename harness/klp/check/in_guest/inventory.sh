# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# inventory.sh - what a guest's kernel has at this moment, as text; `klp.analysis.inventory_text` reads it.
#
# Each section begins with a line "=== NAME". Sourced by the guest's bash, in a subshell of the shell that is
# kept; its argument is the folder with the program walk_kernel.py and its argument, layout.json.
# In an emulated guest to start a program takes as long as to read a dozen files: so one grep reads all of
# them, and one find finds all names. Packed, for to encrypt the text takes longer than gzip to shrink it.
#
# Left out are klp's own doings: processes of this shell's session. Its files are in /run, which is not
# looked at; its probes in tracefs are in groups klp_*, which the reader leaves out.

section() { echo "=== $1"; }
shopt -s nullglob
{
    # On another CPU meanwhile.
    python3 -I -S -E "$1/walk_kernel.py" "$(<"$1/layout.json")" >"$1/walked" 2>&1 &
    walker=$!
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
    wait "$walker"
    mapfile -t lines <"$1/walked"
    printf '%s\n' "${lines[@]}"
} 2>/dev/null | gzip -1 | base64 -w 0
