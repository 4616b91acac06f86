# SPDX-License-Identifier: Apache-2.0
"""The probes for machines without klp: as one folder, or as one file that Python runs (a zipapp)."""

from __future__ import annotations

import shutil
import tempfile
import zipapp
from pathlib import Path

from klp import paths
from klp.errors import HostLacks, UsageError

# The one that BCC's own tools have: its Python is the system's, for which BCC is packaged.
_INTERPRETER = "/usr/bin/env python3"
# What Python runs in a folder or a zip file.
_MAIN = "klpmain.py"


def export_folder(into: Path) -> None:
    """Copy all probes with their manual pages, examples and schema into a new or empty folder.

    Raises:
        UsageError: there is something in it.
        HostLacks: it cannot be written.
    """
    try:
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise UsageError(f"{into}: exists, and is no empty folder", hint="name a new one")
        for file in _files():
            copy = into / _name(file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)  # with its permissions: the tools are started by name
    except OSError as error:
        raise HostLacks(f"{into}: {error.strerror}", hint="name a folder that can be made") from error


def export_zipapp(file: Path) -> None:
    """Write all that `export_folder` copies into one file, which Python runs.

    Raises:
        UsageError: there is such a file.
        HostLacks: it cannot be written.
    """
    if file.exists():
        raise UsageError(f"{file}: exists", hint="name a new file, such as klp-probes.pyz")
    with tempfile.TemporaryDirectory(prefix="klp-") as scratch:
        folder = Path(scratch, "probes")
        export_folder(folder)
        try:
            zipapp.create_archive(folder, file, _INTERPRETER, compressed=True)
        except OSError as error:
            raise HostLacks(f"{file}: {error.strerror}", hint="name a file that can be written") from error


def _name(file: Path) -> Path:
    # Not called so in the package: pytest, which looks at all files of a package with a plugin, would warn.
    return Path("__main__.py") if file.name == _MAIN else file.relative_to(paths.PROBE_SOURCES)


def _files() -> list[Path]:
    beside = ("*_example.txt", "*.json", "man/*.8")
    return [*paths.probe_files(), *(each for kind in beside for each in paths.PROBE_SOURCES.glob(kind))]
