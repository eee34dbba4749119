"""What is in files of keys, and where they are; how they lie on the disk is in :mod:`key_files`.

Each holder of a key has one private file, ``NAME.key``, with all that it needs to connect. Beside it the broker has one
public entry for each key that it serves, ``authorised/NAME.json``. Nothing in here prints, logs or quotes a key.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import key_files
from mlx_mesh_wire.key_files import KeysError
from mlx_mesh_wire.limits import QUOTA_MAX, QUOTA_RATE_MIN
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS_DIR_VARIABLE: Final = "MLX_MESH_KEYS_DIR"
KEYS_VARIABLE: Final = "MLX_MESH_KEYS"
OPERATOR_VARIABLE: Final = "MLX_MESH_CONTROL_KEYS"

ROLES: Final = ("client", "worker", "operator")
BROKER: Final = "broker"
"""Role and name of the broker's own key."""

ENTRIES_MAX: Final = 1024
"""Keys that a broker knows at once: all of them are looked at every half second."""

LISTED_MAX: Final = 64
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
NAME_ALLOWED: Final = "1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
"""Names are files, also where A and a are the same file."""

_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class PrivateKeys:
    """What one holder of a key knows; ``server`` is the public key of the broker."""

    role: str
    name: str
    public: str
    secret: str
    server: str

    def __repr__(self) -> str:
        return f"PrivateKeys(role={self.role!r}, name={self.name!r})"


@dataclass(frozen=True, slots=True)
class Entry:
    """A key that the broker serves, and its quotas; 0 or empty is no limit."""

    role: str
    name: str
    public: str
    rate_per_s: float = 0.0
    burst: int = 0
    outstanding_max: int = 0
    lanes: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


def keys_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of keys, ``$MLX_MESH_KEYS_DIR`` or ``~/.mlx-mesh/keys``. It need not exist."""
    given = env.get(KEYS_DIR_VARIABLE, "")
    return Path(given).expanduser().absolute() if given else Path.home() / ".mlx-mesh" / "keys"


def private_path(directory: Path, name: str) -> Path:
    """Return where the private file of a holder is made."""
    return directory / f"{name}.key"


def entries_dir(directory: Path) -> Path:
    """Return where the entries of authorised keys are."""
    return directory / "authorised"


def entry_path(directory: Path, name: str) -> Path:
    """Return where the entry is by which the broker knows a holder's key."""
    return entries_dir(directory) / f"{name}.json"


def is_entry(name: str) -> bool:
    """Whether a file in the directory of entries is one."""
    return name.endswith(".json") and not name.startswith(".")


def read_private(path: Path) -> PrivateKeys:
    """Return what is in a private file.

    Raises:
        KeysError: it cannot be read, others may read it, it is a link, or no such file.
    """
    told = key_files.read(path)
    _check_who(path, told.get("role"), told.get("name"), (*ROLES, BROKER))
    keys: dict[str, Any] = {name: told.get(name) for name in ("public", "secret", "server")}
    for name, key in keys.items():
        _check_key(path, name, key)
    return PrivateKeys(told["role"], told["name"], **keys)


def keys_of(role: str, given: str | os.PathLike[str], field: str, hint: str = "") -> PrivateKeys:
    """Return what is in the private file that a field gives, if its holder has the role.

    Raises:
        KeysError: as :func:`read_private`, or the key is of another role; the text names the field, and ``hint`` says
            which command helps, that which makes such a key by default.
    """
    try:
        keys = read_private(Path(given).expanduser())
    except KeysError as error:
        raise KeysError(f"{field}: {error}") from error
    if keys.role != role:
        hint = hint or f"make one by: mlx-mesh keys add-{role} NAME"
        raise KeysError(f"{field}: {given} is the key of a {keys.role}; {hint}")
    return keys


def read_entry(path: Path) -> Entry:
    """Return an authorised key; fields that are not known are refused, so that no misspelt quota is taken for none.

    Raises:
        KeysError: as :func:`read_private`, or a quota that is out of bounds.
    """
    told = key_files.read(path)
    known = {field.name for field in fields(Entry)}
    if unknown := sorted(told.keys() - known):
        raise KeysError(f"{path}: {unknown[0]!r} is not known; allowed are {', '.join(sorted(known))}")
    return make_entry(told, str(path))


def make_entry(told: Mapping[str, Any], source: str) -> Entry:
    """Return an entry made of checked fields; ``source`` is named in errors.

    Raises:
        KeysError: a field is missing or out of bounds.
    """
    _check_who(source, told.get("role"), told.get("name"), ROLES)
    public: Any = told.get("public")
    _check_key(source, "public", public)
    quotas: dict[str, Any] = {
        name: _number(source, name, told.get(name, 0)) for name in ("rate_per_s", "burst", "outstanding_max")
    }
    quotas |= {name: _list(source, name, told.get(name, ())) for name in ("lanes", "ops", "models")}
    if unknown := [lane for lane in quotas["lanes"] if lane not in LANE_NAMES]:
        raise KeysError(f"{source}: lanes: {unknown[0]!r} is not allowed; allowed: {', '.join(LANE_NAMES)}")
    return Entry(told["role"], told["name"], public, **quotas)


def write_private(path: Path, keys: PrivateKeys) -> None:
    """Make a private file with mode 0600; never over one that is there.

    Raises:
        FileExistsError: there is a file of this name.
    """
    key_files.create(path, asdict(keys))


def write_entry(path: Path, entry: Entry) -> None:
    """Make the entry of a key; never over one that is there.

    Raises:
        FileExistsError: there is a file of this name.
    """
    key_files.create(path, _without_defaults(entry))


def replace_entry(path: Path, entry: Entry) -> None:
    """Put an entry in the place of one that is there; a broker that looks sees the old one or the new one."""
    key_files.replace(path, _without_defaults(entry))


def check_name(name: str) -> str:
    """Return a name that a holder can have.

    Raises:
        KeysError: saying what is allowed.
    """
    if not NAME.fullmatch(name) or name == BROKER:
        raise KeysError(f"{name!r} is no name; allowed: {NAME_ALLOWED}, and not {BROKER!r}")
    return name


def _without_defaults(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value}


def _check_who(source: object, role: object, name: object, roles: tuple[str, ...]) -> None:
    if role not in roles:
        raise KeysError(f"{source}: role is not one of {', '.join(roles)}")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise KeysError(f"{source}: name is not {NAME_ALLOWED}")


def _check_key(source: object, field: str, key: object) -> None:
    if not isinstance(key, str) or not _Z85.fullmatch(key):
        raise KeysError(f"{source}: {field} is no key of 40 characters in Z85")


def _number(source: str, name: str, given: Any) -> float:
    kinds = (int, float) if name == "rate_per_s" else (int,)
    if type(given) not in kinds or not 0 <= given <= QUOTA_MAX:
        kind = "a number" if float in kinds else "an integer"
        raise KeysError(f"{source}: {name}: {str(given)[:40]!r} is not allowed; allowed: {kind} from 0 to {QUOTA_MAX}")
    if name == "rate_per_s" and 0 < given < QUOTA_RATE_MIN:
        raise KeysError(
            f"{source}: {name}: {given!r} is not allowed; allowed: 0 for any, or at least {QUOTA_RATE_MIN:g}"
        )
    return float(given) if name == "rate_per_s" else int(given)


def _list(source: str, name: str, given: Any) -> tuple[str, ...]:
    if (
        not isinstance(given, list | tuple)
        or len(given) > LISTED_MAX
        or not all(isinstance(each, str) and len(each) <= 200 and each.isprintable() for each in given)  # noqa: PLR2004  as models
    ):
        raise KeysError(f"{source}: {name} is not a list of at most {LISTED_MAX} names")
    return tuple(given)
