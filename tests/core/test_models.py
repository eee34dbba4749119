"""Names of models: those that nobody lists share one queue, and a result is only used again for the same model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from mlx_mesh_broker.core import metrics, sharing
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import Harness

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.harness import Client, Worker


def ask(client: Client, *workers: Worker, body: bytes = b"text", **kwargs: Any) -> bytes | None:
    """Return the result of a request as the workers compute it, each its own; None if it came from no worker."""
    client.take()
    client.request(body=[body], **kwargs)
    for worker in workers:
        for job in worker.jobs():
            worker.finish(job, body=[worker.instance])
            return worker.instance
    ((final, _),) = client.take()
    assert isinstance(final, messages.Final)
    return None


def test_a_restart_with_another_default_model_does_not_answer_with_results_of_the_former() -> None:
    mesh = Harness()
    client, old = mesh.client(), mesh.worker("old", pure=["echo"], models=["small"])
    assert ask(client, old)
    assert ask(client, old) is None
    old.say(messages.Bye("restart"))
    assert len(mesh.core._state.cache) == 0
    new = mesh.worker("new", pure=["echo"], models=["large"])
    assert new.instance == ask(client, new)
    assert ask(client, new) is None


@pytest.mark.parametrize("change", [{"models": ["large", "small"]}, {"versions": {"mlx": "2"}}, {"pure_ops": []}])
@pytest.mark.parametrize("loading", [True, False])
def test_a_worker_that_says_it_computes_something_else_drops_what_it_computed(change: Any, loading: bool) -> None:
    mesh = Harness()
    client, worker = mesh.client(), mesh.worker(pure=["echo"], models=["small"], versions={"mlx": "1"})
    other = mesh.worker("other", ops=["other"], pure=["other"])
    assert ask(client, other, op="other")
    assert ask(client, worker)
    client.request(body=[b"under way"])
    (job,) = worker.jobs()
    worker.describe(**change)
    if loading:
        worker.returning(loading=True)
    worker.returning()
    worker.finish(job)
    assert ask(client, worker)
    client.take()
    assert ask(client, worker, body=b"under way")
    assert ask(client, other, op="other") is None


def test_the_same_ready_again_keeps_the_results() -> None:
    mesh = Harness()
    client, worker = mesh.client(), mesh.worker(pure=["echo"], models=["small"])
    assert ask(client, worker)
    worker.returning()
    assert ask(client, worker) is None


def test_one_of_several_equal_workers_may_restart_without_loss_until_all_have() -> None:
    mesh = Harness()
    client, one = mesh.client(), mesh.worker("one", pure=["echo"], models=["small"])
    assert ask(client, one)
    two = mesh.worker("two", pure=["echo"], models=["small"])
    assert ask(client, one, two) is None
    two.say(messages.Bye("restart"))
    again = mesh.worker("two", pure=["echo"], models=["small"], loading=True)
    assert ask(client, one, again) is None
    again.returning()
    assert ask(client, one, again) is None
    one.say(messages.Bye("restart"))
    assert again.instance == ask(client, again)


@pytest.mark.parametrize(
    "other",
    [{"models": ["large"]}, {"models": ["small"], "versions": {"mlx": "2"}}, {"models": ["small"], "pure": []}],
)
def test_workers_that_differ_share_nothing_while_they_are_together(other: Any) -> None:
    mesh = Harness()
    client, one = mesh.client(), mesh.worker("one", pure=["echo"], models=["small"], slots=8)
    client.request(body=[b"joined"])
    (led,) = one.jobs()
    two = mesh.worker("two", slots=8, **{"pure": ["echo"], **other})
    client.request(body=[b"joined"])
    for _ in range(2):
        client.request(body=[b"a"])
    jobs = [*one.jobs(), *two.jobs()]
    assert len(jobs) == 3
    one.finish(led)
    for worker in (one, two):
        worker.finish(*(job for job in jobs))
    for _ in range(2):
        assert ask(client, one, two)
    assert len(mesh.core._state.cache) == 0
    two.say(messages.Bye(""))
    assert ask(client, one)
    assert ask(client, one) is None


def test_a_model_that_is_named_is_the_same_whatever_the_defaults() -> None:
    mesh = Harness()
    client = mesh.client()
    one = mesh.worker("one", pure=["echo"], models=["small", "large"])
    two = mesh.worker("two", pure=["echo"], models=["large", "small"])
    assert ask(client, one, two, model="large")
    assert ask(client, one, two, model="large") is None
    assert ask(client, one, two, model="small")


def test_an_op_is_shared_no_more_once_the_pure_worker_has_left() -> None:
    mesh = Harness()
    client, pure = mesh.client(), mesh.worker("pure", pure=["echo"])
    ask(client, pure)
    pure.say(messages.Bye(""))
    worker = mesh.worker("impure")
    assert ask(client, worker)
    assert ask(client, worker)


def test_requests_before_and_after_a_change_of_model_do_not_share_a_computation() -> None:
    mesh = Harness(prefetch=0)
    client, worker = mesh.client(), mesh.worker(pure=["echo"], models=["small"])
    client.request(body=[b"occupies"])
    client.request()
    worker.describe(models=["large"])
    worker.returning()
    client.request()
    worker.finish(*worker.jobs())
    worker.finish(*worker.jobs())
    worker.finish(*worker.jobs())
    assert (0, 3) == (mesh.counts["shared"], len([m for m, _ in client.take() if isinstance(m, messages.Final)]))


def calls(do: Callable[[], object]) -> int:
    """Return how many functions are called."""
    count = 0

    def profile(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        do()
    finally:
        sys.setprofile(None)
    return count


def work(mesh: Harness, client: Client, worker: Worker, model: str) -> int:
    """Return what a request costs the core, in calls of functions."""
    mesh.core.check_invariants = lambda: None  # type: ignore[method-assign]
    return calls(lambda: (client.request(model=model), worker.finish(*worker.jobs())))


def test_names_that_clients_invent_neither_slow_the_broker_nor_make_it_grow() -> None:
    mesh = Harness()
    client, worker = mesh.client(), mesh.worker()
    normal = sum(work(mesh, client, worker, "") for _ in range(100))
    invented = [work(mesh, client, worker, f"m{index}") for index in range(1100)]
    assert sum(invented[:100]) <= 2 * normal
    assert sum(invented[-100:]) <= 2 * normal
    assert sum(work(mesh, client, worker, "") for _ in range(100)) <= 2 * normal
    assert {("echo", ""), ("echo", "*")} == set(mesh.core._state.queues) == set(mesh.core.metrics.ops)
    queues = {(queue["op"], queue["model"]): queue["workers"] for queue in mesh.core.status(mesh.now)["queues"]}
    assert {("echo", ""): 1, ("echo", "*"): 1} == queues
    outcomes = mesh.core.metrics.ops["echo", "*"].outcomes
    assert {(1, "OK"): 1100} == outcomes


def test_a_refusal_costs_the_same_however_many_names_were_refused_and_workers_are_there() -> None:
    mesh = Harness()
    client = mesh.client()
    few = mesh.worker("w", models=["small"])
    normal = work(mesh, client, few, "unknown")
    for index in range(50):
        mesh.worker(f"w{index}", models=["small"])
    mesh.worker("more", ops=[f"op{index}" for index in range(60)], models=[f"m{index}" for index in range(60)])
    work(mesh, client, few, "unknown too")
    assert work(mesh, client, few, "unknown as well") <= 2 * normal
    assert mesh.core.metrics.ops["echo", ""].outcomes == {(1, "UNKNOWN_MODEL"): 3}


def test_when_all_queues_are_in_use_that_is_found_out_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_mesh_broker.core import state

    monkeypatch.setattr(state, "QUEUES_MAX", 2)
    mesh = Harness()
    client, worker = mesh.client(), mesh.worker(slots=64)
    for _ in range(60):
        client.request()
    first = client.request("first", flags=Flag.WAIT_FOR_READY)
    core, looked = mesh.core._state, []
    original = core._drop_idle_queues
    monkeypatch.setattr(core, "_drop_idle_queues", lambda *args: looked.append(1) or original(*args))
    client.take()
    refused = [client.request(f"op{index}", flags=Flag.WAIT_FOR_READY) for index in range(3)]
    assert dict.fromkeys(refused, "OVERLOADED") == client.answers()
    assert len(looked) == 1
    client.say(messages.Cancel(first))
    mesh.advance(state.CROWDED_S)
    client.take()
    client.request("later", flags=Flag.WAIT_FOR_READY)
    assert client.answers() == {}
    worker.finish(*worker.jobs())


def test_there_are_so_many_series_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SERIES_MAX", 3)
    mesh = Harness()
    client, worker = mesh.client(), mesh.worker(ops=["a", "b", "c", "d"])
    for op in "abcd":
        client.request(op)
    worker.finish(*worker.jobs())
    worker.finish(*worker.jobs())
    assert {("a", ""), ("b", ""), ("c", ""), ("", "")} == set(mesh.core.metrics.ops)
    assert mesh.core.metrics.ops["", ""].outcomes == {(1, "OK"): 1}


def test_a_queue_that_waited_for_its_first_worker_is_counted_under_its_own_name() -> None:
    mesh = Harness()
    client = mesh.client()
    client.request(flags=Flag.WAIT_FOR_READY)
    worker = mesh.worker()
    worker.finish(*worker.jobs())
    assert mesh.core.metrics.ops["echo", ""].outcomes == {(1, "OK"): 1}


def test_a_worker_that_lists_a_model_gets_what_waits_for_it_with_its_followers() -> None:
    mesh = Harness(prefetch=0)
    one, two = mesh.client("one"), mesh.client("two")
    open_to_all = mesh.worker("open", pure=["echo"])
    occupies = one.request(model="x", body=[b"occupies"])
    first, second, other = one.request(model="large"), two.request(model="large"), two.request(model="y")
    lister = mesh.worker("lister", models=["large"])
    (job,) = lister.jobs()
    assert (first, "large") == (job.request_id, job.model)
    lister.say(messages.Error(job.job_id, "CANCELLED", "", False, 0))
    assert [second] == [job.request_id for job in lister.jobs()]
    assert [occupies] == [job.request_id for job in open_to_all.jobs()]
    assert other in mesh.core._state.sessions[two.session].outstanding


def test_work_for_a_model_moves_from_a_worker_that_died_to_one_that_lists_it() -> None:
    mesh = Harness()
    client, open_to_all = mesh.client(), mesh.worker("open")
    request_id = client.request(model="large")
    assert len(open_to_all.jobs()) == 1
    lister = mesh.worker("lister", models=["large"])
    open_to_all.die()
    assert [request_id] == [job.request_id for job in lister.jobs()]


def test_the_queue_of_a_model_that_is_listed_no_more_gives_way_once_it_is_idle() -> None:
    mesh = Harness()
    client, open_to_all, lister = mesh.client(), mesh.worker("open"), mesh.worker("lister", models=["large"])
    client.request(model="large")
    lister.say(messages.Bye(""))
    assert ("echo", "large") in mesh.core._state.queues
    for worker in (open_to_all, lister):
        worker.finish(*worker.jobs())
    mesh.worker("another", models=["small"])
    assert ("echo", "large") not in mesh.core._state.queues
    client.request(model="large")
    assert ("echo", "*") in mesh.core._state.queues


def test_a_model_for_which_there_is_no_queue_left_stays_where_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_mesh_broker.core import state

    mesh = Harness()
    client = mesh.client()
    request_id = client.request(model="large", flags=Flag.WAIT_FOR_READY)
    default = client.request(flags=Flag.WAIT_FOR_READY)
    monkeypatch.setattr(state, "QUEUES_MAX", 2)
    lister = mesh.worker("lister", models=["large"], slots=4)
    assert [default] == [job.request_id for job in lister.jobs()]
    open_to_all = mesh.worker("open")
    (job,) = open_to_all.jobs()
    assert request_id == job.request_id
    open_to_all.say(messages.Return(job.job_id, "drains"))
    assert [request_id] == [job.request_id for job in open_to_all.jobs()]


def test_a_worker_that_changes_its_models_while_it_is_ready_gets_what_waits_for_them() -> None:
    mesh = Harness()
    client, worker = mesh.client(), mesh.worker(models=["small"])
    request_id = client.request(model="large", flags=Flag.WAIT_FOR_READY)
    worker.describe(models=["small", "large"])
    worker.returning()
    assert [request_id] == [job.request_id for job in worker.jobs()]


def test_a_draining_worker_is_not_one_to_wait_for() -> None:
    mesh = Harness(rejoin_s=5)
    client, worker = mesh.client(), mesh.worker()
    worker.say(messages.Quiet(True))
    refused, patient = client.request(model="m"), client.request(model="m", flags=Flag.WAIT_FOR_READY)
    assert {refused: "NO_WORKER"} == client.answers()
    worker.say(messages.Quiet(False))
    assert [patient] == [job.request_id for job in worker.jobs()]


def test_a_name_that_nobody_lists_waits_for_workers_that_just_left() -> None:
    mesh = Harness(rejoin_s=5)
    client, worker = mesh.client(), mesh.worker()
    client.request(model="m")
    worker.finish(*worker.jobs())
    worker.say(messages.Bye("restart"))
    client.take()
    waiting = client.request(model="n")
    assert client.answers() == {}
    mesh.advance(5.1)
    assert {waiting: "NO_WORKER"} == client.answers()


@pytest.mark.parametrize("size", [100, 600_000])
def test_a_body_is_hashed_only_if_it_is_like_one_in_quarantine(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Harness(deaths_max=1)
    client, worker = mesh.client(), mesh.worker()
    poison = [b"head" + b"x" * size, b"tail"]
    client.request(body=poison)
    (job,) = worker.jobs()
    worker.die(running=[job.job_id])
    mesh.worker("other", slots=64)
    client.take()
    hashed: list[int] = []
    original = sharing.content_key

    def counting(op: str, model: str, frames: Any) -> bytes:
        hashed.append(sum(map(len, frames)))
        return original(op, model, frames)

    monkeypatch.setattr(sharing, "content_key", counting)
    client.request(body=[b"x" * size])
    client.request(model="m", body=poison)
    assert hashed == []
    client.request(body=[b"heap" + b"x" * size, b"tail"])
    assert sum(hashed) <= sharing.HASHED_MAX_BYTES
    assert client.answers() == {}
    client.request(body=[poison[0], b"liat"])
    assert client.answers() == {}
    assert {client.request(body=poison): "POISON_REQUEST"} == client.answers()


def test_quarantine_of_a_body_that_kills_again_lasts_from_then_on() -> None:
    request: Any = messages.Request(1, "echo", "", 1, 1, 0, 0, b"", "")

    class Poison:
        op, model, frames, size = request.op, request.model, (b"x",), 1

    class Other(Poison):
        frames = (b"y",)

    quarantine: Any = sharing.Quarantine(10.0)
    quarantine.add(Poison, 0.0)
    quarantine.add(Other, 1.0)
    quarantine.add(Poison, 5.0)
    assert [True, True] == [quarantine.holds(Poison, 10.9), quarantine.holds(Other, 10.9)]
    assert [True, False] == [quarantine.holds(Poison, 14.9), quarantine.holds(Other, 14.9)]
    assert [False, 0] == [quarantine.holds(Poison, 15.0), len(quarantine)]


def test_a_popular_body_is_joined_and_left_at_the_same_cost_however_many_share_it() -> None:
    mesh = Harness(client_max_outstanding=10_000)
    client, worker = mesh.client(), mesh.worker(pure=["echo"])
    client.request()
    for _ in range(2000):
        mesh.core.check_invariants = lambda: None  # type: ignore[method-assign]
        client.request()
    leader = next(iter(mesh.core._state.flights.values()))
    followers = leader.followers
    assert followers is not None
    client.request()
    assert followers is leader.followers  # not copied
    client.say(messages.Cancel(2000))
    assert len(followers) == 2000
    client.take()
    worker.finish(*worker.jobs())
    assert len(client.take()) == 2001
