"""Entries that change while a broker looks at them: many, half written, at once, without a descriptor left."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlx_mesh_broker.authorised import Authorised
from mlx_mesh_broker.core.quotas import STRANGER
from mlx_mesh_wire import keys as wire
from mlx_mesh_wire.keys import ENTRIES_MAX, Entry, entries_dir, read_entry, write_entry
from mlx_mesh_wire.transport import new_pair


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory of keys with the entries of a, b and c."""
    directory = tmp_path / "keys"
    directory.mkdir(0o700)
    entries_dir(directory).mkdir(0o700)
    for name in "abc":
        add(directory, name)
    return directory


def add(directory: Path, name: str, public: str = "") -> str:
    entry = Entry("client", name, public or new_pair()[0])
    write_entry(entries_dir(directory) / f"{name}.json", entry)
    return entry.public


def path(directory: Path, name: str) -> Path:
    return entries_dir(directory) / f"{name}.json"


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Let this process open nothing more, as when peers hold all connections that it can have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        os.close(last)


def test_a_process_without_descriptors_serves_the_keys_that_it_knows(made: Path) -> None:
    authorised = Authorised(made)
    known = read_entry(path(made, "a")).public
    added = add(made, "d")
    path(made, "b").chmod(0o600)  # so that it would be read again
    with without_descriptors():
        assert [] == authorised.look()
        assert 3 == len(authorised)
        assert "a" == authorised.holder(known, "client").name
    assert [] == authorised.look()
    assert "d" == authorised.holder(added, "client").name


def test_a_key_is_revoked_also_without_descriptors(made: Path) -> None:
    authorised = Authorised(made)
    public = read_entry(path(made, "b")).public
    path(made, "b").unlink()
    with without_descriptors():
        assert ["b"] == authorised.look()
        assert STRANGER is authorised.holder(public, "client")


def test_what_changes_within_one_tick_of_the_files_clock_is_noticed(made: Path) -> None:
    """The second text is as long as the first, in the same file, at the same time."""
    authorised = Authorised(made)
    where = path(made, "a")
    told = json.loads(where.read_text())
    other = new_pair()[0]

    def write(public: str) -> None:
        where.write_text(json.dumps({**told, "public": public}))
        os.utime(where, ns=(10**18, 10**18))

    write(told["public"])
    assert [] == authorised.look()
    file = authorised._files._files["a.json"]
    write(other)
    authorised._files._files["a.json"] = file._replace(stat=_stat(where))  # as if the clock had not ticked
    assert ["a"] == authorised.look()
    assert "a" == authorised.holder(other, "client").name


def _stat(where: Path) -> tuple[int, ...]:
    from mlx_mesh_broker.entry_files import _stat as stat

    found = stat(str(where))
    assert found is not None
    return found


def test_an_entry_half_written_authorises_nobody_until_it_is_whole(made: Path) -> None:
    authorised = Authorised(made)
    whole = path(made, "a").read_text()
    path(made, "a").write_text(whole[:-20])
    assert ["a"] == authorised.look()
    path(made, "a").write_text(whole)
    assert [] == authorised.look()
    assert 3 == len(authorised)


def test_an_entry_is_read_twice_after_it_changed_and_then_no_more(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authorised = Authorised(made)
    read: list[str] = []

    def reading(where: Path) -> Entry:
        read.append(where.name)
        return wire.read_entry(where)

    monkeypatch.setattr("mlx_mesh_broker.entry_files.read_entry", reading)
    authorised.look()
    assert ["a.json", "b.json", "c.json"] == read
    read.clear()
    authorised.look()
    assert [] == read
    path(made, "b").chmod(0o600)
    for _ in range(5):
        authorised.look()
    assert ["b.json", "b.json"] == read


def test_when_there_is_no_time_for_all_the_rest_is_read_the_next_times(made: Path) -> None:
    authorised = Authorised(made)
    authorised.look()
    for name in "de":
        add(made, name)
    path(made, "a").unlink()
    assert ["a"] == authorised.look(0.0)
    assert authorised.behind
    assert 2 == len(authorised)
    assert [] == authorised.look(10.0)
    assert not authorised.behind
    assert 4 == len(authorised)


def test_of_more_keys_than_are_served_the_first_by_name_are(
    made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert ENTRIES_MAX > 3
    monkeypatch.setattr("mlx_mesh_broker.entry_files.ENTRIES_MAX", 3)
    last = add(made, "aa")
    with caplog.at_level("WARNING", "mlx_mesh"):
        authorised = Authorised(made)
        authorised.look()
    assert 3 == len(authorised)
    assert "aa" == authorised.holder(last, "client").name
    assert ["there are 4 keys, served are the first 3 by name"] == [each.fields["reason"] for each in caplog.records]  # type: ignore[attr-defined]


def test_a_directory_that_becomes_a_link_authorises_nobody(made: Path) -> None:
    authorised = Authorised(made)
    aside = made.with_name("aside")
    entries_dir(made).rename(aside)
    entries_dir(made).symlink_to(aside)
    assert ["a", "b", "c"] == sorted(authorised.look())
    entries_dir(made).unlink()
    assert [] == authorised.look()
    shutil.move(aside, entries_dir(made))
    assert [] == authorised.look()
    assert 3 == len(authorised)


@pytest.mark.parametrize("name", ["ä.json", "A.json", "a b.json", os.fsdecode(b"\xff.json"), "\n.json"])
def test_names_that_are_none_authorise_nobody_and_harm_nobody(made: Path, name: str) -> None:
    shutil.copy(path(made, "a"), entries_dir(made) / name)
    assert 3 == len(Authorised(made))


def test_an_entry_that_becomes_a_fifo_holds_nobody_up(made: Path) -> None:
    authorised = Authorised(made)
    path(made, "a").unlink()
    os.mkfifo(path(made, "a"), 0o600)
    assert ["a"] == authorised.look()
    assert 2 == len(authorised)
