# SPDX-License-Identifier: Apache-2.0
"""A user that is a mere number, as in many a container: told in one line, and enough with folders named."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner

from klp import doctor, paths
from klp.cli.main import klp
from klp.errors import HostLacks

OF_A_USER = (
    "HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "KLP_CONFIG", "KLP_CACHE", "KLP_RUNS",
    "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user without an entry in passwd, and without a variable that says where its home is."""
    for name in OF_A_USER:
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)


@pytest.mark.parametrize("choose", [paths.config_file, paths.cache_root, paths.runs_root])
def test_no_home_is_told_with_the_way_out(choose: object) -> None:
    with pytest.raises(HostLacks, match="has no home folder: HOME is not set, nor an entry") as caught:
        choose()  # type: ignore[operator]
    assert caught.value.hint == "set HOME to a folder that can be written"


@pytest.mark.parametrize("words", [["doctor"], ["kernels"], ["runs"], ["image", "list"]])
def test_no_command_ends_in_a_traceback(words: list[str]) -> None:
    done = CliRunner().invoke(klp, words)
    assert isinstance(done.exception, HostLacks), done.exception


def test_with_a_home_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.cache_root() == tmp_path / ".cache" / "klp"
    assert paths.runs_root() == tmp_path / ".local" / "state" / "klp" / "runs"
    assert paths.config_file() == tmp_path / ".config" / "klp" / "config.toml"
    done = CliRunner().invoke(klp, ["doctor", "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "12345" in done.output  # by its number, in the line on subordinate ids


def test_a_user_is_called_by_its_number() -> None:
    assert doctor._user() == "12345"


def test_named_folders_do_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLP_CONFIG", str(tmp_path / "config"))
    assert paths.config_file() == tmp_path / "config"
    assert paths.cache_root(str(tmp_path)) == paths.runs_root(str(tmp_path)) == tmp_path
