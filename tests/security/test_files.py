"""What files of keys are made with, what is refused of them, and what the broker makes of a directory that changes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_mesh_broker.authorised import Authorised
from mlx_mesh_broker.core.quotas import STRANGER, Role
from mlx_mesh_wire.key_files import FILE_MAX_BYTES, KeysError, check_directory
from mlx_mesh_wire.keys import (
    Entry,
    entries_dir,
    private_path,
    read_entry,
    read_private,
    write_private,
)
from mlx_mesh_wire.messages import Lane
from tests.security.keyring import keys


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "deep" / "keys"
    assert 0 == keys(path, "init")
    assert 0 == keys(path, "add-client", "alice")
    return path


@pytest.fixture
def made(template: Path, tmp_path: Path) -> Path:
    """A directory with the keys of a broker and of the client alice."""
    return Path(shutil.copytree(template, tmp_path / "keys"))


def entry(directory: Path, name: str = "alice") -> Path:
    return entries_dir(directory) / f"{name}.json"


def test_everything_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys(tmp_path / "keys", "init")
        keys(tmp_path / "keys", "add-worker", "bob")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").rglob("*")}
    assert {"broker.key": 0o600, "bob.key": 0o600, "bob.json": 0o600, "authorised": 0o700} == modes
    assert 0o700 == stat.S_IMODE((tmp_path / "keys").stat().st_mode)


def test_one_file_has_all_that_a_holder_needs(made: Path) -> None:
    held, known = read_private(private_path(made, "alice")), read_entry(entry(made))
    assert read_private(private_path(made, "broker")).public == held.server
    assert ("client", "alice", known.public) == (held.role, held.name, held.public)
    assert held.secret not in repr(held)
    assert held.secret not in entry(made).read_text()


def test_nothing_is_ever_written_over(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*.*")}
    assert 1 == keys(made, "init")
    for role in ("client", "worker", "operator"):
        assert 1 == keys(made, f"add-{role}", "alice")
        assert "there is a key of 'alice' already" in capsys.readouterr().err
    with pytest.raises(FileExistsError):
        write_private(private_path(made, "alice"), read_private(private_path(made, "broker")))
    assert before == {path: path.read_bytes() for path in made.rglob("*.*")}


def test_who_makes_another_key_of_the_broker_is_told_whose_files_are_of_no_use_now(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "broker.key").unlink()
    assert 1 == keys(made, "add-client", "late")
    assert "make one with: mlx-mesh keys init" in capsys.readouterr().err
    assert 0 == keys(made, "init")
    assert "of no use any more; revoke and add: alice" in capsys.readouterr().err


def test_nothing_is_written_through_a_link(made: Path, tmp_path: Path) -> None:
    private_path(made, "eve").symlink_to(tmp_path / "elsewhere")
    assert 1 == keys(made, "add-client", "eve")
    assert not (tmp_path / "elsewhere").exists()
    assert not entry(made, "eve").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_file_that_others_may_use_is_refused_with_the_command_that_helps(made: Path, mode: int) -> None:
    for path, read in ((private_path(made, "alice"), read_private), (entry(made), read_entry)):
        path.chmod(mode)
        with pytest.raises(KeysError, match=f"has mode {mode:04o}, others may use it; run: chmod 600 {path}"):
            read(path)


def test_a_directory_that_others_may_enter_is_refused_with_the_command_that_helps(made: Path) -> None:
    made.chmod(0o750)
    with pytest.raises(KeysError, match=f"run: chmod 700 {made}"):
        check_directory(made)
    for action in (["list"], ["add-client", "carl"], ["revoke", "alice"]):
        assert 1 == keys(made, *action)


def test_files_of_somebody_else_are_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for refuse in (lambda: read_private(private_path(made, "alice")), lambda: check_directory(made)):
        with pytest.raises(KeysError, match=r"belongs to user \d+, not to you \(12345\); run: chown 12345 "):
            refuse()


def link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (link, "a link is not followed"),
        (fifo, "is not a regular file"),
        (folder, "is not a regular file"),
        (Path.unlink, "cannot be read"),
        (lambda path: path.write_text("x" * (FILE_MAX_BYTES + 1)), "it is no file of keys"),
        (lambda path: path.write_text("secret, not JSON"), "which is a JSON object"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "which is a JSON object"),
        (lambda path: path.write_text("[" * 10_000), "which is a JSON object"),
        (lambda path: path.write_text("{}"), "role is not one of"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_by_name_and_never_quoted(
    made: Path, spoil: Callable[[Path], object], why: str
) -> None:
    for path, read in ((private_path(made, "alice"), read_private), (entry(made), read_entry)):
        spoil(path)
        with pytest.raises(KeysError, match=why) as refused:
            read(path)
        assert str(path) in str(refused.value)
        assert "secret, not" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("role", "broker", "role is not one of client, worker, operator"),
        ("name", "../alice", "name is not"),
        ("name", 5, "name is not"),
        ("public", "short", "no key of 40 characters"),
        ("rate_per_s", -1, "a number from 0"),
        ("rate_per_s", float("nan"), "a number from 0"),
        ("rate_per_s", True, "a number from 0"),
        ("outstanding_max", 1.5, "an integer from 0"),
        ("burst", 10**7, "an integer from 0"),
        ("lanes", ["fast"], "'fast' is not allowed; allowed: interactive, standard, bulk"),
        ("models", "all", "not a list"),
        ("ops", ["a\nb"], "not a list"),
        ("outstanding", 5, "'outstanding' is not known; allowed are burst"),
    ],
)
def test_an_entry_with_a_field_that_is_not_good_authorises_nobody(
    made: Path, field: str, value: object, why: str
) -> None:
    path = entry(made)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(KeysError, match=why):
        read_entry(path)
    assert 0 == len(Authorised(made))


def test_quotas_of_the_command_line_become_those_of_the_holder(made: Path) -> None:
    given = ["--rate", "2.5", "--burst", "4", "--outstanding", "8", "--lanes", "bulk", "--ops", "embed,echo"]
    assert 0 == keys(made, "add-client", "batch", *given)
    known = read_entry(entry(made, "batch"))
    assert Entry("client", "batch", known.public, 2.5, 4, 8, ("bulk",), ("embed", "echo")) == known
    holder = Authorised(made).holder(known.public, "client")
    assert (Role.CLIENT, 2.5, 4, 8) == (holder.role, holder.rate_per_s, holder.burst, holder.outstanding_max)
    assert (frozenset({Lane.BULK}), frozenset({"embed", "echo"}), frozenset()) == (
        holder.lanes, holder.ops, holder.models,
    )  # fmt: skip


def test_workers_may_be_held_to_ops_and_models_and_to_nothing_else(made: Path) -> None:
    assert 0 == keys(made, "add-worker", "gpu", "--ops", "embed", "--models", "a,b")
    known = read_entry(entry(made, "gpu"))
    assert Entry("worker", "gpu", known.public, ops=("embed",), models=("a", "b")) == known
    with pytest.raises(SystemExit):
        keys(made, "add-worker", "other", "--rate", "5")


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", ".x", "broker", "a" * 65, "é"])
def test_names_that_are_no_files_are_refused(made: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == keys(made, "add-client", name)
    assert "is no name; allowed: 1 to 64 of a-z" in capsys.readouterr().err


def test_list_shows_names_roles_and_quotas_but_no_secret(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys(made, "add-operator", "olga")
    secrets = [read_private(private_path(made, name)).secret for name in ("broker", "alice", "olga")]
    told = capsys.readouterr()
    assert 0 == keys(made, "list")
    table = capsys.readouterr()
    assert ["NAME", "alice", "olga"] == [line.split()[0] for line in table.out.splitlines()]
    assert 0 == keys(made, "list", "--json")
    found = capsys.readouterr()
    assert [("client", "alice"), ("operator", "olga")] == [(e["role"], e["name"]) for e in json.loads(found.out)]
    for secret in secrets:
        assert secret not in "".join((*told, *table, *found))


def test_a_revoked_name_may_be_given_again_with_another_key(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_entry(entry(made)).public
    assert 0 == keys(made, "revoke", "alice")
    assert not private_path(made, "alice").exists()
    assert 1 == keys(made, "revoke", "alice")
    assert "there is no key of 'alice'; there are: none" in capsys.readouterr().err
    assert 0 == keys(made, "add-worker", "alice")
    assert before != read_entry(entry(made)).public


def test_the_broker_takes_up_what_changes(made: Path) -> None:
    authorised = Authorised(made)
    alice = read_entry(entry(made)).public
    first = authorised.holder(alice, "client")
    assert ("alice", STRANGER) == (first.name, authorised.holder(alice, "worker"))
    keys(made, "add-worker", "bob")
    assert [] == authorised.look()
    assert first is authorised.holder(alice, "client")  # nothing of it changed
    assert "bob" == authorised.holder(read_entry(entry(made, "bob")).public, "worker").name
    keys(made, "revoke", "alice")
    keys(made, "add-client", "alice")
    assert ["alice"] == authorised.look()
    assert STRANGER is authorised.holder(alice, "client")
    assert "alice" == authorised.holder(read_entry(entry(made)).public, "client").name
    assert [] == authorised.look()


def test_a_changed_quota_counts_and_revokes_nobody(made: Path) -> None:
    authorised = Authorised(made)
    path = entry(made)
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "outstanding_max": 3}))
    assert [] == authorised.look()
    assert 3 == authorised.holder(told["public"], "client").outstanding_max


def test_a_key_whose_role_changes_is_revoked(made: Path) -> None:
    authorised = Authorised(made)
    path = entry(made)
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "role": "worker"}))
    assert ["alice"] == authorised.look()
    assert STRANGER is authorised.holder(told["public"], "client")


@pytest.mark.parametrize("inner", [False, True])
def test_nobody_is_authorised_while_a_directory_is_open_to_others(made: Path, inner: bool) -> None:
    authorised = Authorised(made)
    public = read_entry(entry(made)).public
    directory = entries_dir(made) if inner else made
    directory.chmod(0o755)
    assert ["alice"] == authorised.look()
    assert STRANGER is authorised.holder(public, "client")
    directory.chmod(0o700)
    assert [] == authorised.look()
    assert "alice" == authorised.holder(public, "client").name


def test_a_mode_that_changes_is_noticed(made: Path) -> None:
    authorised = Authorised(made)
    entry(made).chmod(0o644)
    assert ["alice"] == authorised.look()
    entry(made).chmod(0o600)
    assert [] == authorised.look()
    assert 1 == len(authorised)


def test_two_entries_of_one_key_authorise_neither(made: Path) -> None:
    twin = entry(made, "twin")
    twin.write_text(json.dumps({**json.loads(entry(made).read_text()), "name": "twin"}))
    twin.chmod(0o600)
    assert 0 == len(Authorised(made))


def test_an_entry_under_another_name_than_its_own_authorises_nobody(made: Path) -> None:
    entry(made).rename(entry(made, "bob"))
    assert 0 == len(Authorised(made))
