# SPDX-License-Identifier: Apache-2.0
"""A user's build tree, put together from a cached Debian kernel as `make` would have left it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

from klp.files import remove_tree
from klp.process import run


def copy_modules(image, tree: Path) -> None:
    """The modules that find the disks, each where one of its name would be built."""
    listed = []
    for name in (image.kernel.image.parent / "boot-modules" / "order").read_text().split():
        place = Path("drivers") / Path(name).stem / name
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.kernel.image.parent / "boot-modules" / name, tree / place)
        listed.append(f"{place.with_suffix('.o')}\n")
    (tree / "modules.order").write_text("".join(listed))
    inside = f"/modules/{image.kernel.release}/modules.builtin"
    builtin = run(["debugfs", "-R", f"cat {inside}", image.kernel.disk]).stdout
    assert "kernel/drivers/virtio/" in builtin
    (tree / "modules.builtin").write_text(builtin)


@contextmanager
def removed_after(library, tree: Path):
    """Take what the cache got of a tree out of it again."""
    try:
        yield
    finally:
        for entry, _ in library.parts(str(tree)):
            remove_tree(entry)
