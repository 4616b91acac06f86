# SPDX-License-Identifier: Apache-2.0
"""A command that ends when the connection of whoever waits for it does, be it by Ctrl-C.

An SSH server does nothing to a command whose connection is gone: it goes on, until it next writes. So a
lookout in the guest sees whether the server's process for that connection is still there, and if not hangs
up all of the command, as a terminal that is closed would. A terminal itself would change what is written:
lines would end otherwise, and standard output and standard error would be one.
"""

from __future__ import annotations

import shlex

# In a guest nobody ever writes to this FIFO (vm-images/guest/boot): to read it with a time-out is to wait
# without starting a program.
_SILENCE = "/run/klp/silence"
# $1 is the server's process, $2 the line, $3 the FIFO. The command alone has its streams: the server waits
# until nobody can write there, and this shell would say there what signal the command died of.
_SCRIPT = """\
exec 5>&2 2>/dev/null
(
	exec <&- >&- 5>&- 9<>"$3"
	while kill -0 "$1"; do read -r -t 0.3 -u 9; done
	kill -HUP -- "-$$"
) &
bash -c "$2" 2>&5 5>&-
status=$?
kill "$!"
exit "$status"
"""


def bound_line(line: str, silence: str = _SILENCE) -> str:
    """Return the line that runs a line for as long as the connection lasts that it is run over.

    Args:
        silence: a FIFO that nobody writes to.
    """
    # In a session of its own, so that all of it can be hung up, and nothing else.
    words = ["setsid", "--wait", "bash", "-c", _SCRIPT, "klp-exec"]
    return f'{shlex.join(words)} "$PPID" {shlex.join([line, silence])}'
