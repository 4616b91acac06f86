# SPDX-License-Identifier: Apache-2.0
"""Settings: defaults, then ``klp/config.toml`` in the XDG configuration folder, then ``KLP_*``.

One row below declares a setting once: its type, its default and its help. A key that is not
listed is an error with file and line, never silently ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from klp.errors import SettingsError, UsageError
from klp.toml import read_toml

__all__ = ["Settings", "load"]

AcceleratorChoice = Literal["auto", "kvm", "tcg"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user can set, with the defaults (units are in the names)."""

    kernel: str = "6.12"
    cache: str = ""
    runs: str = ""
    mirror: str = ""
    accelerator: AcceleratorChoice = "auto"
    memory_mib: Annotated[int, msgspec.Meta(ge=256, le=65536)] = 1024
    cpus: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    mitigations: bool = False
    compare_alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    compare_effect: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    compare_repetitions: Annotated[int, msgspec.Meta(ge=2)] = 5
    compare_passes: Annotated[int, msgspec.Meta(ge=1)] = 2
    compare_longer_ms: Annotated[float, msgspec.Meta(ge=0)] = 100.0
    compare_longer_by: Annotated[float, msgspec.Meta(ge=1)] = 1.5
    compare_ignore: str = (
        "hrtimer: interrupt took|perf: interrupt took too long|clocksource: |crng reseeded"
    )

    def __post_init__(self) -> None:
        try:
            re.compile(self.compare_ignore)
        except re.error as error:
            raise ValueError(f"compare_ignore: no regular expression: {error}") from None


HELP = {
    "kernel": "the kernel to boot where none is named: a name of `klp kernels`, or a build tree",
    "cache": "folder of built images; default: klp/ in the XDG cache folder",
    "runs": "folder of run folders; default: klp/runs/ in the XDG state folder",
    "mirror": "a Debian mirror's URI for image builds; default: the one mmdebstrap picks",
    "accelerator": "auto, kvm or tcg; auto takes KVM only where it was seen to boot a kernel",
    "memory_mib": "memory of a guest, in MiB",
    "cpus": "virtual CPUs of a guest",
    "deadline_s": "seconds a transition may take before it is called stuck",
    "mitigations": "leave the kernel's CPU-bug mitigations on in the guest (slower)",
    "compare_alpha": "`klp compare`: the p value, adjusted for the number of tests, up to which one counts",
    "compare_effect": "`klp compare`: Cliff's delta from which on a rank test counts, from 0 to 1",
    "compare_repetitions": "`klp compare`: repetitions both sets must have for a test to count",
    "compare_passes": "`klp compare`: passes more than the base's most that count without a test",
    "compare_longer_ms": "`klp compare`: milliseconds by which a phase's median must grow to count",
    "compare_longer_by": "`klp compare`: the factor by which it must grow besides",
    "compare_ignore": "`klp compare`: regular expression of kernel messages that never count",
}


def config_file() -> Path:
    """Return where a user's settings are read from, whether or not the file exists."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get("KLP_CONFIG") or home / "klp" / "config.toml")


def load(**changes: object) -> Settings:
    """Read the settings of this process, and put those of `changes` that are not None over them.

    Raises:
        SettingsError: broken TOML, an unknown key, or a value of the wrong kind; names the place.
        UsageError: a change is out of its setting's range, or of no setting.
    """
    file = config_file()
    if file.exists():
        settings = read_toml(file, Settings)
    elif os.environ.get("KLP_CONFIG"):
        raise SettingsError(f"KLP_CONFIG={file}: no such file", hint="unset it, or create the file")
    else:
        settings = Settings()
    return _with_changes(_with_environment(settings), changes)


def _with_changes(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """Put what a caller asks for over what this process is set to."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return msgspec.convert({**msgspec.to_builtins(settings), **given}, Settings)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`")
        what = f"{name} {given[name]}: {reason}" if name else reason
        raise UsageError(what, hint=HELP.get(name)) from None


def _with_environment(settings: Settings) -> Settings:
    """Put ``KLP_CACHE``, ``KLP_KERNEL``, … over what the file said."""
    known = {f"KLP_{name.upper()}": name for name in Settings.__struct_fields__}
    _refuse_unknown({*known, "KLP_CONFIG"})
    changes: dict[str, Any] = {}
    for variable, name in known.items():
        if variable in os.environ:
            changes[name] = os.environ[variable]
    try:
        merged = {**msgspec.to_builtins(settings), **changes}
        return msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        wrong = next(
            (v for v, n in known.items() if f"$.{n}" in str(error) or f"{n}: " in str(error)), "KLP_*"
        )
        reason = str(error).split(" - at")[0]
        raise SettingsError(
            f"{wrong}={os.environ.get(wrong, '')}: {reason}", hint=HELP.get(known.get(wrong, ""))
        ) from None


def _refuse_unknown(known: set[str]) -> None:
    """Refuse a KLP_ variable that sets nothing: a misspelt one would be ignored in silence."""
    unknown = sorted(name for name in os.environ if name.startswith("KLP_") and name not in known)
    if unknown:
        raise SettingsError(f"{unknown[0]}: unknown setting", hint=f"known: {', '.join(sorted(known))}")
