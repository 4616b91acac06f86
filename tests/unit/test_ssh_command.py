# SPDX-License-Identifier: Apache-2.0
"""`klp ssh`: what OpenSSH is told, whatever the user's own configuration says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klp import paths
from klp.lab.keeper import KeptGuest, ssh_command
from klp.model import Accelerator

GUEST = KeptGuest(
    name="lab", keeper=1, port=4022, key="/k", host_key="ssh-ed25519 AAAA", release="r",
    accelerator=Accelerator.TCG, begun_at=0.0,
)  # fmt: skip
# What a user may have for their own machines.
CONFIG = """
Host *
  ForwardAgent yes
  ForwardX11 yes
  ForwardX11Trusted yes
  ControlMaster auto
  ControlPath /tmp/cm-%r@%h:%p
  PermitLocalCommand yes
  LocalCommand echo hi
  ProxyCommand nc %h %p
  RemoteForward 9999 localhost:22
  SendEnv SECRET
"""


def settled(*argv: str) -> dict[str, str]:
    """Return what ssh would do, by `ssh -G`."""
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return dict(line.partition(" ")[::2] for line in said.splitlines())


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "lab").mkdir()
    monkeypatch.setattr(paths, "guests_root", lambda: tmp_path)
    return ssh_command(GUEST, ("uname", "-r"))


def test_no_configuration_is_read(argv: list[str]) -> None:
    assert argv[:3] == ["ssh", "-F", "none"]
    assert argv[-3:] == ["root@127.0.0.1", "uname", "-r"]


def test_even_if_one_were_read_nothing_is_handed_on(argv: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(CONFIG)
    own = settled("ssh", "-F", str(config), "-G", "root@127.0.0.1")
    assert own["forwardagent"] == "yes"
    told = settled("ssh", "-F", str(config), "-G", *argv[3:])
    for name, value in {
        "forwardagent": "no", "forwardx11": "no", "permitlocalcommand": "no", "identityagent": "none",
        "identitiesonly": "yes", "stricthostkeychecking": "true",
    }.items():  # fmt: skip
        assert told[name] == value, name
    assert not {"controlpath", "proxycommand"} & set(told) or told["controlpath"] == "none"
    assert "sendenv" not in settled("ssh", "-G", *argv[1:])
    assert "remoteforward" not in settled("ssh", "-G", *argv[1:])
