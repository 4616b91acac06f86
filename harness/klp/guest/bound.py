# SPDX-License-Identifier: Apache-2.0
"""A command that ends when whoever waits for it does, be it by Ctrl-C, or with the connection.

An SSH server does nothing to a command whose channel is closed: it goes on, until it next writes. So its
input is kept open for as long as somebody waits, and where that ends, all of the command is hung up, as by
a terminal that is closed. A terminal itself would do that, too, but change what is written: lines would end
otherwise, and standard output and standard error would be one.
"""

from __future__ import annotations

import shlex

# A coprocess, for a guest has no /dev/fd, which other pipes to a shell of its own take.
# $1 bytes of its input are the command's. What comes then is its end: that of whoever waits for it. The
# command alone has its streams: the server waits until nobody can write there, and this shell would say
# there what signal the command died of.
_SCRIPT = """\
exec 3<&0 5>&2 2>/dev/null
coproc { exec 5>&-; head -c "$1" <&3; exec >&-; while read -r -u 3; do :; done; kill -HUP -- "-$$"; }
lookout=$COPROC_PID
exec 4<&"${COPROC[0]}"
bash -c "$2" <&4 2>&5 3<&- 4<&- 5>&-
status=$?
kill "$lookout"
exit "$status"
"""


def bound_line(line: str, input_bytes: int) -> str:
    """Return the line that runs a line for as long as its standard input stays open.

    Args:
        input_bytes: as many bytes of that are for the line itself.
    """
    # In a session of its own, so that all of it can be hung up, and nothing else.
    return shlex.join(["setsid", "--wait", "bash", "-c", _SCRIPT, "klp-exec", str(input_bytes), line])
