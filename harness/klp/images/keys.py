# SPDX-License-Identifier: Apache-2.0
"""The two SSH key pairs of a cache: one its guests show as their host key, the other logs in to them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from filelock import FileLock


def ensure_key(file: Path) -> str:
    """Make an ed25519 key pair at `file` and ``file.pub`` unless it is there; return the public line."""
    public = file.with_name(f"{file.name}.pub")
    if file.exists() and public.exists():
        _close(file)
        return public.read_text().strip()
    # Two processes that each made a pair would lock each other out of guests that are up.
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(file.with_name(f"{file.name}.lock")):
        if not (file.exists() and public.exists()):
            _make_pair(file, public)
    return public.read_text().strip()


def dropbear_form(file: Path) -> bytes:
    """Return the private key of `file` as dropbear reads it (its keyimport.c): name, then seed and point.

    Made here, because dropbearconvert would take a tenth of a second of each emulated boot.
    """
    key = load_ssh_private_key(file.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"{file}: not an ed25519 key")
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    point = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return _counted(b"ssh-ed25519") + _counted(seed + point)


def _counted(text: bytes) -> bytes:
    """An SSH string (RFC 4251): its length in four bytes, then the bytes."""
    return len(text).to_bytes(4, "big") + text


def _make_pair(file: Path, public: Path) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    _write(public, line + b"\n", 0o644)
    _write(file, private, 0o600)


def _close(file: Path) -> None:
    """See that a private key is its user's alone: that of a copied cache may be open, which ssh refuses."""
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        file.chmod(0o600)


def _write(file: Path, content: bytes, mode: int) -> None:
    """Write a file whole: another klp may be reading it."""
    # The mode is given as it is made: a chmod later would leave the key readable by all for a moment.
    growing = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    growing.rename(file)
