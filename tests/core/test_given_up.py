"""NO_WORKER says which processes were given up, and why."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh_broker.core import events, guard
from mlx_mesh_wire import limits, messages
from mlx_mesh_wire.guard_report import Troubled
from mlx_mesh_wire.messages import Flag
from tests.core.guard_words import CALM, fatal
from tests.core.harness import Client, Harness


def give_up(mesh: Harness, *processes: Troubled) -> None:
    mesh.feed(events.GuardTold(CALM._replace(troubled=list(processes)), ""))


def error(client: Client, **request: Any) -> messages.Error:
    client.take()
    client.request(**request)
    return next(message for message, _ in client.take() if isinstance(message, messages.Error))


def gone(mesh: Harness, name: str, **served: Any) -> None:
    mesh.worker(name, **served).die()


def test_a_process_that_served_the_op_is_named_with_its_reason_and_when_it_is_tried_again() -> None:
    mesh = Harness(rejoin_s=0)
    client = mesh.client()
    gone(mesh, "embed-0", ops=["embed"], models=["small"])
    gone(mesh, "text-0", ops=["generate"])
    give_up(mesh, fatal("text-0"), fatal("embed-0", "exit status 78: model.safetensors is truncated", retry_s=41.0))
    mesh.advance(1.0)
    refused = error(client, op="embed")
    assert "NO_WORKER" == refused.code
    assert refused.message == error(client, op="embed", model="large").message
    assert refused.message.endswith(
        "wait for it; embed-0 is FATAL: exit status 78: model.safetensors is truncated; it is started again in 40 s"
    )
    assert error(client, op="generate").message.endswith("wait for it; text-0 is FATAL")
    assert error(client, op="other").message.endswith("wait for it")


def test_what_nothing_is_remembered_of_is_named_for_an_op_that_nothing_else_explains() -> None:
    mesh = Harness(rejoin_s=0)
    client = mesh.client()
    gone(mesh, "text-0", ops=["generate"])
    give_up(mesh, fatal("new-0", "exit status 1", state="BACKOFF"), fatal("text-0"))
    assert error(client, op="embed").message.endswith("wait for it; new-0 is BACKOFF: exit status 1")
    assert error(client, op="generate").message.endswith("wait for it; text-0 is FATAL")


def test_a_report_that_is_too_old_explains_nothing() -> None:
    mesh = Harness()
    client = mesh.client()
    give_up(mesh, fatal("new-0"))
    mesh.advance(guard.GUARD_LEASE_S + 0.1)
    assert "new-0" not in error(client, op="embed").message


def test_a_model_whose_worker_was_given_up_is_explained_too() -> None:
    mesh = Harness()
    client = mesh.client()
    gone(mesh, "large-0", ops=["embed"], models=["large"])
    mesh.worker("small-0", ops=["embed"], models=["small"])
    give_up(mesh, fatal("large-0"), fatal("new-0"))
    refused = error(client, op="embed", model="large")
    assert ("UNKNOWN_MODEL", True) == (refused.code, refused.message.endswith("there is small; large-0 is FATAL"))
    assert error(client, op="embed", model="medium").message.endswith("there is small")


def test_the_text_names_three_at_most_and_keeps_its_bound_however_long_names_and_reasons_are() -> None:
    mesh = Harness(rejoin_s=0)
    client = mesh.client()
    mesh.worker("w", ops=[f"{n:02}" + "o" * 62 for n in range(64)])
    give_up(mesh, *(fatal(f"new-{n}\n", "é\x1b" * 200, retry_s=3600.0) for n in range(5)))
    text = error(client, op="embed").message
    assert limits.ERROR_MESSAGE_MAX_CHARS == len(text)
    assert 3 == text.count("; it is started again in 3600 s") == text.count("new-") == text.count(" is FATAL: é é é")
    assert text.isprintable()
    assert text.startswith("no worker serves 'embed'; the mesh serves ")


def test_workers_that_were_seen_longest_ago_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "ROSTER_MAX", 2)
    mesh = Harness(rejoin_s=0)
    client = mesh.client()
    for name in ("a-0", "b-0", "a-0", "c-0"):
        gone(mesh, name, ops=[name[0]])
    give_up(mesh, fatal("a-0"), fatal("b-0"), fatal("c-0"))
    assert error(client, op="a").message.endswith("it; a-0 is FATAL")
    assert error(client, op="b").message.endswith("it; b-0 is FATAL")
    assert error(client, op="d").message.endswith("it; b-0 is FATAL")


def test_requests_that_wait_for_a_worker_that_is_given_up_are_refused_with_the_reason() -> None:
    mesh = Harness(rejoin_s=5)
    worker, client = mesh.worker("embed-0", ops=["embed"]), mesh.client()
    running = client.request(op="embed")
    worker.take()
    worker.die()
    patient = client.request(op="embed", flags=Flag.WAIT_FOR_READY)
    for _ in range(2):  # It crashes while it loads, and then is given up.
        mesh.advance(2.0)
        mesh.worker("embed-0", ops=["embed"], loading=True).die()
    waiting = client.request(op="embed")
    mesh.advance(2.0)
    give_up(mesh, fatal("embed-0", "exit status 78"))
    client.say(messages.Ping(1))
    assert {} == client.answers()
    mesh.advance(3.1)
    told = {m.id: m for m, _ in client.take() if isinstance(m, messages.Error)}
    assert {running, waiting} == set(told)
    assert all(each.message.endswith("embed-0 is FATAL: exit status 78") for each in told.values())
    assert error(client, op="embed").message.endswith("embed-0 is FATAL: exit status 78")
    back = mesh.worker("embed-0", ops=["embed"])
    assert [patient] == [job.request_id for job in back.jobs()]


def test_that_those_who_serve_an_op_are_draining_is_said() -> None:
    mesh = Harness(rejoin_s=0)
    client = mesh.client()
    for number in range(5):
        mesh.worker(f"w{number}")
    mesh.feed(events.Drain("*", True))
    assert "all workers that serve 'echo' are draining (w0, w1, w2 and others)" in error(client).message
    mesh = Harness(rejoin_s=0)
    mesh.worker("only")
    mesh.feed(events.Drain("only", True))
    assert "are draining (only); start another" in error(mesh.client()).message
