# SPDX-License-Identifier: Apache-2.0
"""Settings: defaults, then ``klp/config.toml`` in the XDG configuration folder, then ``KLP_*``.

To add a setting, add a field to `Settings`: type, range, help line and default. Reading, checking and the
variable ``KLP_NAME`` follow from it. A key that is no field is an error that names file and line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from klp import paths
from klp.errors import SettingsError, UsageError
from klp.toml import read_toml

__all__ = ["Settings", "load"]

AcceleratorChoice = Literal["auto", "kvm", "tcg"]


def _(help_line: str) -> msgspec.Meta:
    return msgspec.Meta(description=help_line)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user can set (units are in the names)."""

    kernel: Annotated[
        str, _("the kernel to boot where none is named: a name of `klp kernels`, or a build tree")
    ] = "6.12"
    cache: Annotated[str, _("folder of built images; default: klp/ in the XDG cache folder")] = ""
    cache_limit_gib: Annotated[
        float, msgspec.Meta(gt=0),
        _("GiB that the cache may take; above it, what was unused the longest goes (`klp image gc`)"),
    ] = 60.0  # fmt: skip
    runs: Annotated[str, _("folder of run folders; default: klp/runs/ in the XDG state folder")] = ""
    mirror: Annotated[
        str, _("a Debian mirror's URI for image builds; default: the one mmdebstrap picks")
    ] = ""
    accelerator: Annotated[
        AcceleratorChoice,
        _("auto, kvm or tcg; auto takes KVM only where it was seen to boot a kernel"),
    ] = "auto"
    memory_mib: Annotated[int, msgspec.Meta(ge=256, le=65536), _("memory of a guest, in MiB")] = 1024
    cpus: Annotated[int, msgspec.Meta(ge=1, le=64), _("virtual CPUs of a guest")] = 2
    deadline_s: Annotated[
        float, msgspec.Meta(gt=0), _("seconds a transition may take before it is called stuck")
    ] = 60.0
    callback_limit_s: Annotated[
        float, msgspec.Meta(gt=0),
        _("`klp check`: seconds above which a livepatch's callback is at fault: it holds klp_mutex"),
    ] = 10.0  # fmt: skip
    header_units: Annotated[
        int, msgspec.Meta(ge=1),
        _("source patches: how many translation units may include a header that is changed"),
    ] = 8  # fmt: skip
    mitigations: Annotated[
        bool, _("leave the kernel's CPU-bug mitigations on in the guest (slower)")
    ] = False  # fmt: skip
    debug: Annotated[
        bool, _("boot the guest's kernel with what it has built in to find faults in memory (slower)")
    ] = False
    compare_alpha: Annotated[
        float, msgspec.Meta(gt=0, lt=1),
        _("`klp compare`: the p value, adjusted for the number of tests, up to which one counts"),
    ] = 0.05  # fmt: skip
    compare_effect: Annotated[
        float, msgspec.Meta(ge=0, le=1),
        _("`klp compare`: Cliff's delta from which on a rank test counts, from 0 to 1"),
    ] = 0.5  # fmt: skip
    compare_repetitions: Annotated[
        int, msgspec.Meta(ge=2), _("`klp compare`: repetitions both sets must have for a test to count")
    ] = 5
    compare_passes: Annotated[
        int, msgspec.Meta(ge=1),
        _("`klp compare`: passes more than the base's most that count without a test"),
    ] = 2  # fmt: skip
    compare_longer_ms: Annotated[
        float, msgspec.Meta(ge=0),
        _("`klp compare`: milliseconds by which a phase's median must grow to count"),
    ] = 100.0  # fmt: skip
    compare_longer_by: Annotated[
        float, msgspec.Meta(ge=1), _("`klp compare`: the factor by which it must grow besides")
    ] = 1.5
    compare_ignore: Annotated[
        str, _("`klp compare`: regular expression of kernel messages that never count")
    ] = "hrtimer: interrupt took|perf: interrupt took too long|clocksource: |crng reseeded"

    def __post_init__(self) -> None:
        try:
            re.compile(self.compare_ignore)
        except re.error as error:
            raise ValueError(f"compare_ignore: no regular expression: {error}") from None


def _help_lines() -> dict[str, str]:
    hints = get_type_hints(Settings, include_extras=True)
    return {name: hints[name].__metadata__[-1].description for name in Settings.__struct_fields__}


HELP = _help_lines()


def load(**changes: object) -> Settings:
    """Read the settings of this process, and put those of `changes` that are not None over them.

    Raises:
        SettingsError: broken TOML, an unknown key, or a value of the wrong kind; names the place.
        UsageError: a change is out of its setting's range, or of no setting.
    """
    file = paths.config_file()
    if file.exists():
        settings = read_toml(file, Settings)
    elif os.environ.get("KLP_CONFIG"):
        raise SettingsError(f"KLP_CONFIG={file}: no such file", hint="unset it, or create the file")
    else:
        settings = Settings()
    return _with_changes(_with_environment(settings), changes)


def _with_changes(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """Return the settings with `changes` over them; a value of None changes nothing."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return msgspec.convert({**msgspec.to_builtins(settings), **given}, Settings)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`")
        what = f"{name} {given[name]}: {reason}" if name else reason
        raise UsageError(what, hint=HELP.get(name)) from None


def _with_environment(settings: Settings) -> Settings:
    """Return the settings of the file with those of ``KLP_CACHE``, ``KLP_KERNEL``, … over them."""
    known = {f"KLP_{name.upper()}": name for name in Settings.__struct_fields__}
    _refuse_unknown({*known, "KLP_CONFIG"})
    changes: dict[str, Any] = {}
    for variable, name in known.items():
        if variable in os.environ:
            changes[name] = os.environ[variable]
    try:
        merged = {**msgspec.to_builtins(settings), **changes}
        # Not strict: a variable is text, and "2048" is to become a number.
        return msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        # msgspec says where only in its message: `$.name` for a field, "name: " for `__post_init__`.
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
