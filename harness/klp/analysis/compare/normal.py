# SPDX-License-Identifier: Apache-2.0
"""Names and lines without what differs from run to run though nothing differs: ids, addresses, times."""

from __future__ import annotations

import re

from klp.klog.lines import without_stamp

# The number of a CPU or of an instance: kworker/0:1H, klp_sleep/3, swapper/1.
_INSTANCE = re.compile(r"(?<=[/:])u?\d+")
# Without 0x from eight digits on: shorter ones may be words, such as "added" or "feed".
_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{8,}\b", re.IGNORECASE)
# Numbers, with or without a unit or a dot before what follows; one with a minus is an errno and stays.
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)*(?=(?:ns|us|ms|s|kB|K|M|KiB|MiB)?(?:\W|$))")
_OFFSET = re.compile(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?", re.IGNORECASE)
OWN = "(the livepatch)"


def task_name(comm: str) -> str:
    """Return a task's name without the number of its CPU or instance: ``kworker/N:N``."""
    return _INSTANCE.sub("N", comm)


def message(line: str, livepatch: str) -> str:
    """Return a line of the kernel log without stamp, addresses, offsets and numbers.

    Args:
        livepatch: the one under test, which is called the same in both sets.
    """
    text = _own(without_stamp(line).strip(), livepatch)
    text = _ADDRESS.sub("ADDRESS", _OFFSET.sub("", text))
    return _NUMBER.sub("N", text)


def function(caller: str, livepatch: str) -> str:
    """Return a caller ``function+0xOFFSET [module]`` without the offset."""
    return _own(_OFFSET.sub("", caller), livepatch)


def _own(text: str, livepatch: str) -> str:
    return re.sub(rf"\b{re.escape(livepatch)}\b", OWN, text) if livepatch else text
