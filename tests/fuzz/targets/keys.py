"""A file of keys of any bytes is a holder's keys or an authorised entry with quotas within bounds, or a KeysError that
does not quote what is in it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlx_mesh_wire.key_files import KeysError
from mlx_mesh_wire.keys import read_entry, read_private
from mlx_mesh_wire.limits import QUOTA_MAX

PUBLIC = "a" * 40
SECRET = "Sx" * 20
_FOLDER = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
_FILE = _FOLDER / f"mlx-mesh-fuzz-{os.getpid()}.key"


def one(data: bytes) -> int:
    _FILE.touch(0o600)
    _FILE.write_bytes(data)
    try:
        _read()
    finally:
        _FILE.unlink()
    return 1


def _read() -> None:
    try:
        keys = read_private(_FILE)
        assert len(keys.secret) == len(keys.public) == len(keys.server) == len(PUBLIC)
        assert keys.secret not in repr(keys)
    except KeysError as error:
        assert SECRET not in str(error)
    try:
        entry = read_entry(_FILE)
    except KeysError as error:
        assert SECRET not in str(error)
    else:
        assert 0 <= entry.rate_per_s <= QUOTA_MAX
        assert 0 <= entry.burst <= QUOTA_MAX
        assert 0 <= entry.outstanding_max <= QUOTA_MAX


def seeds() -> Iterator[bytes]:
    who = {"role": "client", "name": "n", "public": PUBLIC}
    yield json.dumps({**who, "secret": SECRET, "server": PUBLIC}).encode()
    quotas = {"rate_per_s": 1.5, "burst": 2, "outstanding_max": 3, "lanes": ["bulk"], "ops": ["a"], "models": ["m"]}
    yield json.dumps({**who, **quotas}).encode()
