"""How files of keys lie on the disk: JSON, made whole, and read only if nobody else may read or change them.

Nothing in here quotes what a file says.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_MAX_BYTES: Final = 16 * 1024
"""A file of keys has a few hundred bytes; what is far larger is something else."""


class KeysError(SettingsError):
    """A file or directory of keys is refused; the message says why and which command helps."""


def check_directory(path: Path) -> None:
    """Refuse a directory of keys that others may enter.

    Raises:
        KeysError: it is missing, no directory, somebody else's, or open to others.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}; make keys with: mlx-mesh keys init") from error
    if not stat.S_ISDIR(found.st_mode):
        raise KeysError(f"{path} is not a directory, or a link to one; keys are kept in a directory of their own")
    _check_owner(path, found, "700")


def create(path: Path, told: Mapping[str, Any]) -> None:
    """Make a file that is either whole or not there, for a broker that looks in the same moment.

    Raises:
        FileExistsError: there is a file of this name.
    """
    draft = _draft(path, told)
    try:
        os.link(draft, path, follow_symlinks=False)  # As O_EXCL does, it fails where there is one.
    finally:
        draft.unlink()


def replace(path: Path, told: Mapping[str, Any]) -> None:
    """Put a file in the place of one that is there; whoever looks sees the old one or the new one."""
    draft = _draft(path, told)
    try:
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Return what a file says.

    Raises:
        KeysError: it cannot be read, others may read it, it is a link, or no file of keys.
    """
    try:
        # Without O_NONBLOCK a FIFO of that name would hold up whoever reads it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        link = " (a link is not followed)" if path.is_symlink() else ""
        raise KeysError(f"{path}: cannot be read: {error.strerror}{link}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise KeysError(f"{path} is not a regular file")
        _check_owner(path, found, "600")
        text = os.read(descriptor, FILE_MAX_BYTES + 1)
    except OSError as error:
        raise KeysError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(text) > FILE_MAX_BYTES:
        raise KeysError(f"{path} has over {FILE_MAX_BYTES} bytes; it is no file of keys")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None  # The reason would quote the text.
    if not isinstance(told, dict):
        raise KeysError(f"{path} is no file of keys, which is a JSON object") from None
    return told


def _draft(path: Path, told: Mapping[str, Any]) -> Path:
    """Write a file beside the one that is to be, and return its path."""
    text = json.dumps(told, indent=2) + "\n"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink()
        raise
    return draft


def _check_owner(path: Path, found: os.stat_result, mode: str) -> None:
    if found.st_uid != os.geteuid():
        own = os.geteuid()
        raise KeysError(f"{path} belongs to user {found.st_uid}, not to you ({own}); run: chown {own} {path}")
    if found.st_mode & 0o077:
        raise KeysError(f"{path} has mode {found.st_mode & 0o777:04o}, others may use it; run: chmod {mode} {path}")
