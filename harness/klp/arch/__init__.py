# SPDX-License-Identifier: Apache-2.0
"""CPU architectures: every fact that differs from one to another, in one table each. No logic.

A further one is a file beside `amd64`, and its name in `ALL`.
"""

from __future__ import annotations

from klp.arch.amd64 import AMD64
from klp.arch.architecture import Architecture, CrashDialect

__all__ = ("ALL", "DEFAULT", "Architecture", "CrashDialect", "of")

ALL = (AMD64,)
# That of a kernel of which nothing else is known, and what is meant where no kernel was named yet.
DEFAULT = AMD64
_BY_NAME = {each.name: each for each in ALL}


def of(name: str) -> Architecture:
    """Return the architecture that `Kernel.architecture` names.

    Raises:
        KeyError: there is none of that name.
    """
    return _BY_NAME[name]
