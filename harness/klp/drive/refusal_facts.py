# SPDX-License-Identifier: Apache-2.0
"""The state of a guest just after its kernel refused something, asked by one command."""

from __future__ import annotations

import shlex

from klp.analysis.refusal_facts import RefusalFacts, read_refusal_facts
from klp.guest.ssh import Guest

# Flags of ftrace's list of functions stand behind the number of users, "NAME (1) R I  \t…": an I is for
# one that redirects it (t_show, kernel/trace/ftrace.c). Of kprobes' list, "ADDRESS k NAME+0x4 [FTRACE]",
# those count that stand where ftrace's call is: behind an ENDBR that is at 4.
_SCRIPT = r"""
shopt -s nullglob
say() { [ -r "$2" ] && printf '%s %s\n' "$1" "$(cat "$2" 2>/dev/null)"; }
for each in /sys/kernel/livepatch/*/; do
    name=$(basename "$each"); say "livepatch $name" "$each/transition"
done
module=/sys/module/$1
say module $module/initstate
say references $module/refcnt
for each in $module/holders/*; do echo "holder ${each##*/}"; done
say ftrace_enabled /proc/sys/kernel/ftrace_enabled
say modules_disabled /proc/sys/kernel/modules_disabled
say signed_only /sys/module/module/parameters/sig_enforce
sed -n 's/.*\[\(.*\)\].*/lockdown \1/p' /sys/kernel/security/lockdown 2>/dev/null
sed -n 's/^MemAvailable: *\([0-9]*\) kB/available \1/p' /proc/meminfo
sed -n 's/^\([^ ]*\) ([0-9]*)[ RD]* I .*/redirected \1/p' /sys/kernel/tracing/enabled_functions 2>/dev/null
sed -n 's/^[0-9a-f]* *k *\([^ +]*\)+0x[0-9a-f]* .*\[FTRACE\].*/probed \1/p' \
    /sys/kernel/debug/kprobes/list 2>/dev/null
:
"""


def gather_refusal_facts(guest: Guest, subject: str) -> RefusalFacts:
    """Ask a guest what tells why something of a module was refused.

    Args:
        subject: the module.
    """
    done = guest.run(f"set -- {shlex.quote(subject)}\n{_SCRIPT}")
    return read_refusal_facts(done.stdout)
