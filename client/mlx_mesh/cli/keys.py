"""``mlx-mesh keys``: make, list, change and revoke the keys of a mesh that is reached over TCP."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mlx_mesh.cli.arguments import add_parser
from mlx_mesh.cli.key_quotas import add_quotas, changed, quotas
from mlx_mesh.cli.output import EXIT_OK, count, fail, note, say
from mlx_mesh.cli.table import table
from mlx_mesh_wire import keys
from mlx_mesh_wire.key_files import KeysError, check_directory

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

ABOUT = """\
Make the keys that a mesh needs before it can be reached over the network. They are kept in $MLX_MESH_KEYS_DIR or
~/.mlx-mesh/keys, each in a file that nobody else may read; a broker there takes up what changes within a second."""

MORE = """\
examples:
  mlx-mesh keys init                         once, where the broker runs
  mlx-mesh keys add-client laptop            makes laptop.key: copy it to the laptop, and set MLX_MESH_KEYS to its path
  mlx-mesh keys add-client batch --rate 50 --lanes bulk
  mlx-mesh keys add-worker gpu-0             for: mlx-mesh-worker --keys gpu-0.key --broker tcp://HOST:5571
  mlx-mesh keys set batch --rate 100 --lanes ''   twice the rate, and all lanes
  mlx-mesh keys revoke laptop                ends its connections too"""

USES = {
    "client": "copy it to where the client runs, and set {variable} to its path there",
    "worker": "copy it to where the worker runs: mlx-mesh-worker --keys PATH --broker tcp://HOST:PORT ...",
    "operator": "copy it to where the operator works, and set {operator} to its path there, "
    "MLX_MESH_CONTROL to tcp://HOST:PORT",
}


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``keys`` and what it can do."""
    parser = add_parser(commands, "keys", summary="make, list, change and revoke keys", about=ABOUT, more=MORE)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _action(actions, "init", "make the directory and the broker's key", init)
    for role in keys.ROLES:
        adding = _action(actions, f"add-{role}", f"make the key of a {role}", add)
        adding.add_argument("name", metavar="NAME", help=f"{keys.NAME_ALLOWED}; different from all others")
        adding.set_defaults(role=role)
        add_quotas(adding, role)
    setting = _action(actions, "set", "change the quotas of a key, also while the broker runs", change)
    setting.add_argument("name", metavar="NAME", help="as in: mlx-mesh keys list")
    add_quotas(setting)
    listing = _action(actions, "list", "show whose keys are authorised", show)
    listing.add_argument("--json", action="store_true", help="as a JSON array, for scripts")
    revoking = _action(actions, "revoke", "take a key back; its connections are served no more", revoke)
    revoking.add_argument("name", metavar="NAME", help="as in: mlx-mesh keys list")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--keys-dir", type=Path, metavar="DIR", help="default: $MLX_MESH_KEYS_DIR or ~/.mlx-mesh/keys")
    parser.set_defaults(run=run)
    return parser


def init(args: argparse.Namespace) -> int:
    """Make the directory and the broker's own key."""
    directory = _directory(args)
    if keys.private_path(directory, keys.BROKER).exists():
        fail(f"{directory} has keys already; see them with: mlx-mesh keys list")
    for path in (directory, keys.entries_dir(directory)):
        path.mkdir(mode=0o700, parents=path == directory, exist_ok=True)
        check_directory(path)
    public, secret = _new_pair()
    own = keys.PrivateKeys(keys.BROKER, keys.BROKER, public, secret, public)
    keys.write_private(keys.private_path(directory, keys.BROKER), own)
    if old := [entry.name for entry in _entries(directory)]:
        names = ", ".join(old)
        note(f"files made for an earlier key of the broker are of no use any more; revoke and add: {names}")
    say(f"{directory} has the broker's key; add others with: mlx-mesh keys add-client NAME, add-worker NAME")
    return EXIT_OK


def add(args: argparse.Namespace) -> int:
    """Make a key, and the entry by which the broker knows it."""
    directory = _checked(args)
    name = keys.check_name(args.name)
    path, entry_path = keys.private_path(directory, name), keys.entry_path(directory, name)
    own = keys.private_path(directory, keys.BROKER)
    if not own.exists():
        fail(f"{own}, the broker's key, is not there; make one with: mlx-mesh keys init")
    server = keys.read_private(own).public
    public, secret = _new_pair()
    entry = keys.make_entry({"role": args.role, "name": name, "public": public, **quotas(args)}, "quotas")
    _write(path, entry_path, keys.PrivateKeys(args.role, name, public, secret, server), entry)
    say(str(path))
    note(USES[args.role].format(variable=keys.KEYS_VARIABLE, operator=keys.OPERATOR_VARIABLE) + "; then delete it here")
    return EXIT_OK


def _write(path: Path, entry_path: Path, private: keys.PrivateKeys, entry: keys.Entry) -> None:
    taken = f"there is a key of {entry.name!r} already; take it back with: mlx-mesh keys revoke {entry.name}"
    if entry_path.exists():
        fail(taken)
    try:
        keys.write_private(path, private)
    except FileExistsError:
        fail(f"{path} is there, but the broker does not serve it; delete it, or take another name")
    try:
        keys.write_entry(entry_path, entry)
    except FileExistsError:  # Somebody else was adding the same name.
        path.unlink()
        fail(taken)


def show(args: argparse.Namespace) -> int:
    """List the authorised keys and their quotas, never a secret."""
    entries = _entries(_checked(args))
    if args.json:
        say(json.dumps([asdict(entry) for entry in entries], indent=2))
    elif entries:
        say(
            table(("NAME", "ROLE", "RATE", "OUTSTANDING", "LANES", "OPS", "MODELS"), [_row(entry) for entry in entries])
        )
    else:
        say("no key is authorised; add one with: mlx-mesh keys add-client NAME")
    return EXIT_OK


def change(args: argparse.Namespace) -> int:
    """Change what is given of the quotas of a key."""
    directory = _checked(args)
    name = keys.check_name(args.name)
    entry = keys.entry_path(directory, name)
    if not entry.exists():
        _unknown(entry)
    keys.replace_entry(entry, changed(keys.read_entry(entry), args))
    say(f"{name} has other quotas; a broker that runs goes by them within a second")
    return EXIT_OK


def revoke(args: argparse.Namespace) -> int:
    """Remove an entry, and what is left of its private file."""
    directory = _checked(args)
    name = keys.check_name(args.name)
    entry = keys.entry_path(directory, name)
    try:
        entry.unlink()
    except FileNotFoundError:
        _unknown(entry)
    keys.private_path(directory, name).unlink(missing_ok=True)
    say(f"{name} is revoked; a broker that runs serves it no more within a second")
    return EXIT_OK


def _unknown(entry: Path) -> NoReturn:
    known = ", ".join(sorted(path.stem for path in _paths(entry.parent))) or "none"
    fail(f"there is no key of {entry.stem!r}; there are: {known}")


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if keys.is_entry(path.name))


def _entries(directory: Path) -> list[keys.Entry]:
    entries, bad = [], 0
    for path in _paths(keys.entries_dir(directory)):
        try:
            entries.append(keys.read_entry(path))
        except KeysError as error:
            bad += 1
            note(str(error))
    if bad:
        note(f"{count(bad, 'entry is', 'entries are')} not served by the broker")
    return entries


def _row(entry: keys.Entry) -> tuple[Any, ...]:
    lists = (entry.lanes, entry.ops, entry.models)
    return (
        entry.name,
        entry.role,
        f"{entry.rate_per_s:g}/s" if entry.rate_per_s else "any",
        entry.outstanding_max or "any",
        *(",".join(each) or "all" for each in lists),
    )


def _directory(args: argparse.Namespace) -> Path:
    given: Path | None = args.keys_dir
    return given.expanduser().absolute() if given is not None else keys.keys_dir()


def _checked(args: argparse.Namespace) -> Path:
    directory = _directory(args)
    check_directory(directory)
    check_directory(keys.entries_dir(directory))
    return directory


def _new_pair() -> tuple[str, str]:
    from mlx_mesh_wire.transport import LibraryError, new_pair  # zmq, which no other action needs

    try:
        return new_pair()
    except LibraryError as error:
        fail(str(error))
