"""``mlx-mesh keys set``: what it changes, what it leaves, and what it refuses with a reason."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mlx_mesh_broker.authorised import Authorised
from mlx_mesh_wire.keys import Entry, entries_dir, read_entry
from tests.security.keyring import keys


@pytest.fixture
def made(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    keys(directory, "init")
    keys(directory, "add-client", "alice", "--rate", "5", "--burst", "7", "--lanes", "bulk")
    keys(directory, "add-worker", "bob")
    keys(directory, "add-operator", "olga")
    return directory


def entry(directory: Path, name: str = "alice") -> Entry:
    return read_entry(entries_dir(directory) / f"{name}.json")


def test_only_what_is_given_changes_and_a_running_broker_goes_by_it(made: Path) -> None:
    authorised, before = Authorised(made), entry(made)
    assert 0 == keys(made, "set", "alice", "--rate", "50", "--outstanding", "3", "--lanes", "")
    after = Entry("client", "alice", before.public, 50.0, 7, 3)
    assert after == entry(made)
    assert [] == authorised.look()
    holder = authorised.holder(before.public, "client")
    assert (50.0, 7, 3, frozenset()) == (holder.rate_per_s, holder.burst, holder.outstanding_max, holder.lanes)
    where = entries_dir(made) / "alice.json"
    assert 0o600 == stat.S_IMODE(where.stat().st_mode)
    assert ["alice.json", "bob.json", "olga.json"] == sorted(each.name for each in where.parent.iterdir())


def test_quotas_are_taken_away_by_naught(made: Path) -> None:
    assert 0 == keys(made, "set", "alice", "--rate", "0", "--burst", "0", "--lanes", "")
    assert Entry("client", "alice", entry(made).public) == entry(made)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (
            ("alice",),
            "nothing is to be changed; a key for the role client has: --rate, --burst, --outstanding, --lanes",
        ),
        (("olga",), "a key for the role operator has: no quotas"),
        (("nobody", "--rate", "1"), "there is no key of 'nobody'; there are: alice, bob, olga"),
        (("bob", "--rate", "1"), "--rate is not for 'bob', which is the key of a worker"),
        (("alice", "--rate", "-1"), "rate_per_s: '-1.0' is not allowed; allowed: a number from 0 to 1000000"),
        (("alice", "--rate", "0.0001"), "rate_per_s: 0.0001 is not allowed; allowed: 0 for any, or at least 0.001"),
        (("alice", "--lanes", "fast"), "lanes: 'fast' is not allowed; allowed: interactive, standard, bulk"),
    ],
)
def test_what_is_no_quota_of_the_key_is_refused_and_nothing_changes(
    made: Path, args: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [entry(made, name) for name in ("alice", "bob", "olga")]
    assert 1 == keys(made, "set", *args)
    assert why in capsys.readouterr().err
    assert before == [entry(made, name) for name in ("alice", "bob", "olga")]


def test_a_rate_that_the_broker_would_not_serve_makes_no_key(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == keys(made, "add-client", "slow", "--rate", "0.0001")
    assert "allowed: 0 for any, or at least 0.001" in capsys.readouterr().err
    assert not (entries_dir(made) / "slow.json").exists()
