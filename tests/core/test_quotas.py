"""A key is held to its role and its quotas over all its connections; who has none notices nothing of keys."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh_broker.core import events, keyed, metrics
from mlx_mesh_broker.core.quotas import STRANGER, Account, Holder, Role
from mlx_mesh_broker.exporter import collect
from mlx_mesh_broker.snapshot import Snapshot
from mlx_mesh_wire import messages, unpack_body
from mlx_mesh_wire.messages import Flag, Lane
from tests.core.harness import Client, Harness


def key(name: str = "ci", **quotas: Any) -> Holder:
    return Holder(name, Role.CLIENT, **quotas)


def worker_key(name: str = "gpu", **quotas: Any) -> Holder:
    return Holder(name, Role.WORKER, **quotas)


def last_error(client: Client) -> messages.Error:
    errors = [message for message, _ in client.take() if isinstance(message, messages.Error)]
    return errors[-1]


def holders(mesh: Harness) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in mesh.core.status(mesh.now)["holders"]}


def refused(mesh: Harness) -> dict[tuple[str, str], int]:
    return dict(mesh.core.metrics.quota_refused)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name: "),
        ({"name": "a b"}, "name: "),
        ({"name": "x" * 65}, "name: "),
        ({"name": "x\x1b[2J"}, "name: "),
        ({"rate_per_s": -1}, "rate_per_s: "),
        ({"rate_per_s": 1e-4}, "rate_per_s: "),
        ({"rate_per_s": 2e6}, "rate_per_s: "),
        ({"rate_per_s": float("nan")}, "rate_per_s: "),
        ({"burst": -1}, "burst: "),
        ({"burst": 10**6 + 1}, "burst: "),
        ({"outstanding_max": -1}, "outstanding_max: "),
    ],
)
def test_a_holder_out_of_bounds_is_refused_by_the_name_of_the_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Holder(**{"name": "ci", "role": Role.CLIENT, **fields})


def test_holders_may_be_at_their_bounds() -> None:
    most = key("x" * 64, rate_per_s=1e6, burst=10**6, outstanding_max=10**6)
    assert 1e6 == most.rate_per_s
    assert 0.001 == key(rate_per_s=0.001).rate_per_s


def test_so_many_requests_pass_at_once_as_the_burst_says_and_then_at_the_rate() -> None:
    mesh = Harness()
    mesh.worker(slots=64)
    client = mesh.client(holder=key(rate_per_s=4, burst=3))
    for _ in range(3):
        client.request()
    assert {} == client.answers()
    client.request()
    error = last_error(client)
    assert ("OVERLOADED", True, 250) == (error.code, error.retryable, error.retry_after_ms)
    assert "'ci'" in error.message
    assert {("ci", "rate"): 1} == refused(mesh)
    mesh.advance(0.249)
    client.request()
    assert 1 == last_error(client).retry_after_ms
    mesh.advance(0.001)
    client.request()
    assert {} == client.answers()
    mesh.advance(60)
    mesh.worker("another", slots=8)
    client.take()
    for _ in range(4):
        client.request()
    assert ["OVERLOADED"] == list(client.answers().values())


@pytest.mark.parametrize("rate_per_s", [0.003, 0.7, 3, 7, 333.3])
def test_who_waits_as_long_as_told_is_let_pass(rate_per_s: float) -> None:
    account = Account(key(rate_per_s=rate_per_s, burst=2), 0.0)
    now = 12345.678
    for _ in range(2):
        assert 0 == account.take(now)
    for _ in range(200):
        wait_s = account.take(now)
        assert wait_s > 0
        assert account.take(now + wait_s * 0.99) > 0
        now += wait_s
        assert 0 == account.take(now)


@pytest.mark.parametrize(("rate_per_s", "burst"), [(5, 5), (0.5, 1), (2.5, 2)])
def test_without_a_burst_the_requests_of_one_second_may_come_at_once(rate_per_s: float, burst: int) -> None:
    account = Account(key(rate_per_s=rate_per_s), 0.0)
    assert burst == sum(account.take(0.0) == 0 for _ in range(10))


def test_a_rate_counts_over_all_connections_of_a_key_and_for_no_other_key() -> None:
    mesh = Harness()
    mesh.worker(slots=64)
    holder = key(rate_per_s=1, burst=2)
    first, second = mesh.client("a", holder=holder), mesh.client("b", holder=holder)
    other, keyless = mesh.client("c", holder=key("other", rate_per_s=1, burst=2)), mesh.client("d")
    first.request()
    second.request()
    first.request()
    second.request()
    assert ["OVERLOADED"] == list(first.answers().values())
    assert ["OVERLOADED"] == list(second.answers().values())
    for _ in range(2):
        other.request()
        keyless.request()
    assert {} == other.answers() | keyless.answers()


def test_leaving_and_coming_back_fills_no_bucket() -> None:
    mesh = Harness()
    mesh.worker()
    client = mesh.client(holder=key(rate_per_s=1, burst=1))
    client.request()
    client.say(messages.Bye(""))
    client.hello()
    client.take()
    client.request()
    assert ["OVERLOADED"] == list(client.answers().values())


def test_questions_for_the_status_count_too() -> None:
    mesh = Harness()
    client = mesh.client(holder=key(rate_per_s=2, burst=1))
    client.take()
    client.say(messages.Status(1))
    client.say(messages.Status(2))
    (first, _), (second, _) = client.take()
    assert isinstance(first, messages.Final)
    assert messages.Error(2, "OVERLOADED", second.message, True, 500) == second


def test_what_an_earlier_broker_let_pass_is_taken_in_again_but_counted() -> None:
    mesh = Harness()
    mesh.worker(slots=8)
    client = mesh.client(last_epoch="epoch-0", holder=key(rate_per_s=1, burst=2))
    for _ in range(4):
        client.request(flags=Flag.RESEND)
    assert {} == client.answers()
    client.request()
    assert 3000 == last_error(client).retry_after_ms
    mesh.advance(5)
    for _ in range(3):
        client.request(flags=Flag.RESEND)
    assert ["OVERLOADED"] == list(client.answers().values())


def test_outstanding_requests_of_a_key_are_bounded_over_its_sessions() -> None:
    mesh = Harness()
    worker = mesh.worker(slots=8)
    holder = key(outstanding_max=2)
    first, second = mesh.client("a", holder=holder), mesh.client("b", holder=holder)
    assert [2, 64] == [
        next(message for message, _ in each.take() if isinstance(message, messages.Welcome)).limits["outstanding_max"]
        for each in (first, mesh.client("c"))
    ]
    first.request()
    second.request()
    second.request()
    error = last_error(second)
    assert ("OVERLOADED", 50) == (error.code, error.retry_after_ms)
    assert {("ci", "outstanding"): 1} == refused(mesh)
    worker.finish(worker.jobs()[0])
    second.request()
    assert {} == second.answers()
    assert {
        "name": "ci", "role": "client", "sessions": 2, "workers": 0, "outstanding": 2, "refused": 1
    } == holders(mesh)["ci"]  # fmt: skip


@pytest.mark.parametrize(
    ("quota", "quotas", "wrong", "allowed"),
    [
        ("lane", {"lanes": frozenset({Lane.BULK, Lane.STANDARD})}, {"lane": 0}, "standard, bulk"),
        ("op", {"ops": frozenset({"echo", "embed"})}, {"op": "generate"}, "echo, embed"),
        ("model", {"models": frozenset({"small", ""})}, {"model": "large"}, "(none named), small"),
    ],
)
def test_what_a_key_does_not_allow_is_refused_and_what_it_allows_is_told(
    quota: str, quotas: dict[str, Any], wrong: dict[str, Any], allowed: str
) -> None:
    mesh = Harness()
    mesh.worker(ops=["echo", "generate"], slots=8)
    client = mesh.client(holder=key(**quotas, rate_per_s=1, burst=1))
    client.request(**wrong)
    error = last_error(client)
    assert ("UNAUTHORIZED", False) == (error.code, error.retryable)
    assert error.message.endswith(f"allowed are: {allowed}")
    assert {("ci", quota): 1} == refused(mesh)
    client.request()
    assert {} == client.answers()


def test_a_key_for_some_models_must_name_one_unless_it_need_not() -> None:
    mesh = Harness()
    mesh.worker(models=["small", "large"])
    client = mesh.client(holder=key(models=frozenset({"small"})))
    client.request()
    assert "requests that name no model" in last_error(client).message
    client.request(model="small")
    assert {} == client.answers()


def test_other_quotas_for_a_key_in_use_count_from_its_next_message() -> None:
    mesh = Harness()
    mesh.worker(slots=8)
    client, other = mesh.client("a", holder=key()), mesh.client("b", holder=key())
    client.request()
    client.holder = other.holder = key(rate_per_s=1, burst=2)
    for _ in range(3):
        client.request()
    assert ["OVERLOADED"] == list(client.answers().values())
    client.holder = other.holder = key(rate_per_s=1, burst=50)
    other.request()
    assert ["OVERLOADED"] == list(other.answers().values())
    client.holder = other.holder = key(outstanding_max=3)
    other.request()
    client.holder = other.holder = key(outstanding_max=4)
    other.request()
    assert {2: "OVERLOADED"} == other.answers()


def test_a_key_of_another_role_gets_no_service() -> None:
    mesh = Harness()
    for holder in (worker_key(), Holder("ops", Role.OPERATOR), STRANGER):
        client = mesh.client(holder=holder)
        assert "UNAUTHORIZED" == last_error(client).code
        client.request()
        client.say(messages.Status(7))
        client.say(messages.Ping(1))
        assert {1: "UNAUTHORIZED", 7: "UNAUTHORIZED"} == client.answers()
        mesh.advance(1)
    for holder in (key(), STRANGER):
        worker = mesh.worker(holder=holder)
        worker.beat()
        (error, _), *others = worker.take()
        assert (0, "UNAUTHORIZED") == (error.id, error.code)
        assert [] == others
        mesh.advance(1)
    status = mesh.core.status(mesh.now)
    assert (0, [], []) == (status["clients"], status["workers"], status["holders"])
    assert mesh.logged("client_unauthorized")
    assert mesh.logged("worker_unauthorized")
    assert {("", "unauthorized"): 3 * 4 + 2 * 2} == refused(mesh)


def test_who_does_not_say_hello_is_asked_to() -> None:
    mesh = Harness()
    mesh.feed(events.FromClient(b"r", messages.Ping(1), (), key()))
    mesh.feed(events.FromWorker(b"w", messages.Beat(1, 0, False, [], [], {}, {}), (), worker_key()))
    assert [messages.Reset("epoch-1", 0)] == [message for message, _ in mesh.to_clients[b"r"]]
    assert [messages.Reset("epoch-1")] == [message for message, _ in mesh.to_workers[b"w"]]


@pytest.mark.parametrize("other", [None, key("other")])
def test_a_session_belongs_to_the_holder_who_began_it(other: Holder | None) -> None:
    mesh = Harness()
    worker = mesh.worker()
    client = mesh.client(holder=key())
    client.request()
    thief = Client(mesh, "c", holder=other)
    thief.route = b"elsewhere"
    thief.hello()
    assert "UNAUTHORIZED" == last_error(thief).code
    worker.finish(*worker.jobs())
    assert {1: "OK"} == client.answers()
    assert [] == thief.take()


@pytest.mark.parametrize("greets", [True, False])
@pytest.mark.parametrize("other", [None, key("other")])
def test_the_answers_of_a_session_do_not_go_to_another_holder_on_its_route(other: Holder | None, greets: bool) -> None:
    mesh = Harness()
    worker = mesh.worker()
    client = mesh.client(holder=key())
    client.request()
    client.take()
    thief = Client(mesh, "thief", holder=other)
    thief.route = client.route
    if greets:
        thief.hello()
    else:
        thief.say(messages.Ping(1))
    worker.finish(*worker.jobs())
    assert {} == thief.answers()
    client.route = b"a new connection"
    client.hello()
    assert {1: "OK"} == client.answers()


def test_a_revoked_key_loses_service_at_once_and_no_other_does() -> None:
    mesh = Harness()
    worker = mesh.worker(slots=4)
    client, second = mesh.client("a", holder=key()), mesh.client("b", holder=key())
    other = mesh.client("c", holder=key("other"))
    client.request()
    second.request(window=4)
    other.request()
    jobs = worker.jobs()
    mesh.feed(events.Revoked("ci"))
    assert ["UNAUTHORIZED"] * 2 == [*client.answers().values(), *second.answers().values()]
    cancelled = [message.id for message, _ in worker.take() if isinstance(message, messages.Cancel)]
    assert [job.job_id for job in jobs[:2]] == cancelled
    client.holder = STRANGER
    client.request()
    assert {2: "UNAUTHORIZED"} == client.answers()
    worker.finish(jobs[2])
    assert {1: "OK"} == other.answers()
    assert ["other"] == list(holders(mesh))
    assert [{"key": "ci", "sessions": 2, "workers": 0}] == [
        each.fields for each in mesh.logs if each.level == "warning"
    ]
    mesh.feed(events.Revoked("ci"))
    client.holder = key()
    client.hello()
    client.request()
    assert {} == client.answers()


def test_the_jobs_of_a_worker_whose_key_is_revoked_run_elsewhere() -> None:
    mesh = Harness()
    worker = mesh.worker("a", holder=worker_key())
    client = mesh.client()
    client.request()
    job = worker.jobs()[0]
    assert {"gpu": 1} == {name: each["workers"] for name, each in holders(mesh).items()}
    spare = mesh.worker("b", holder=worker_key("spare"))
    mesh.feed(events.Revoked("gpu"))
    again = spare.jobs()
    worker.holder = STRANGER
    worker.finish(job)
    assert {} == client.answers()
    spare.finish(*again)
    assert {1: "OK"} == client.answers()
    assert ["b"] == [each["name"] for each in mesh.core.status(mesh.now)["workers"]]


@pytest.mark.parametrize(
    ("quotas", "served", "named"),
    [
        ({"ops": frozenset({"embed"})}, {"ops": ["embed", "echo"]}, "the op 'echo'"),
        ({"models": frozenset({"small"})}, {"models": ["small", "large"]}, "the model 'large'"),
        ({"models": frozenset({"small"})}, {"models": []}, "requests that name no model"),
    ],
)
def test_a_worker_serves_what_its_key_allows(quotas: dict[str, Any], served: dict[str, Any], named: str) -> None:
    mesh = Harness()
    worker = mesh.worker(holder=worker_key(**quotas), **served)
    (error, _), *_ = worker.take()
    assert ("UNAUTHORIZED", True) == (error.code, named in error.message)
    assert [] == mesh.core.status(mesh.now)["workers"]
    allowed = mesh.worker("w2", ops=["embed"], models=["small"], holder=worker_key(**quotas))
    assert isinstance(allowed.take()[0][0], messages.Welcome)


def test_a_worker_whose_key_allows_less_than_before_is_gone_with_its_next_word() -> None:
    mesh = Harness()
    worker, client = mesh.worker(holder=worker_key()), mesh.client()
    worker.holder = worker_key(ops=frozenset({"echo", "embed"}))
    worker.beat()
    assert {"w"} == {each["name"] for each in mesh.core.status(mesh.now)["workers"]}
    client.request()
    worker.take()
    worker.holder = worker_key(ops=frozenset({"embed"}))
    worker.beat()
    assert "UNAUTHORIZED" == worker.take()[0][0].code
    assert [] == mesh.core.status(mesh.now)["workers"]
    mesh.worker("x").finish(*mesh.worker("y").jobs())
    assert 1 == mesh.core.status(mesh.now)["counters"]["outstanding"]


def test_nobody_speaks_for_a_worker_of_another_key() -> None:
    mesh = Harness()
    worker, client = mesh.worker(holder=worker_key()), mesh.client()
    client.request()
    job = worker.jobs()[0]
    thief = mesh.worker("thief", ops=[], holder=worker_key("other"))
    thief.describe(instance=worker.instance)
    thief.returning()
    assert "UNAUTHORIZED" == thief.take()[-1][0].code
    thief.route = worker.route
    thief.finish(job)
    assert {} == client.answers()
    assert isinstance(worker.take()[-1][0], messages.Reset)
    worker.returning()
    worker.finish(*worker.jobs())
    assert {1: "OK"} == client.answers()


def test_a_key_gets_the_share_of_one_client_however_many_sessions_it_opens() -> None:
    mesh = Harness()
    worker = mesh.worker(slots=1)
    crowd = [mesh.client(f"crowd{number}", holder=key()) for number in range(5)]
    single = mesh.client("single", holder=key("single"))
    keyless = mesh.client("keyless")
    for _ in range(3):
        for client in (*crowd, single, keyless):
            client.request()
    order = []
    while jobs := worker.jobs():
        order += [job.session.rstrip(b"-").decode() for job in jobs]
        worker.finish(*jobs)
    waited = order[2:]  # The first two went straight to the worker.
    assert 3 == sum(name == "single" for name in waited[:9])
    assert 3 == sum(name == "keyless" for name in waited[:9])
    assert {f"crowd{number}" for number in range(5)} <= set(waited[9:])


def test_a_key_has_a_bounded_number_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_mesh_broker.core.sessions.KEY_SESSIONS_MAX", 2)
    mesh = Harness()
    first, _, third = (mesh.client(name, holder=key()) for name in "abc")
    assert "OVERLOADED" == last_error(third).code
    assert {("ci", "sessions"): 1} == refused(mesh)
    first.say(messages.Bye(""))
    third.hello()
    assert isinstance(third.take()[0][0], messages.Welcome)
    assert keyed.KEY_SESSIONS_MAX == 1024


def test_a_client_with_a_key_sees_no_other_holder() -> None:
    mesh = Harness()
    client, keyless = mesh.client("a", holder=key()), mesh.client("b")
    mesh.client("c", holder=key("other"))
    seen = []
    for each in (client, keyless):
        each.take()
        each.say(messages.Status(1))
        status: Any = unpack_body(each.take()[0][1])
        seen.append([holder["name"] for holder in status["holders"]])
    assert [["ci"], ["ci", "other"]] == seen


def test_keys_beyond_a_bound_share_their_figures() -> None:
    counters = metrics.Metrics()
    for number in range(metrics.KEYS_MAX + 3):
        counters.over_quota(f"key{number}", "rate")
    counters.over_quota("key0", "rate")
    assert 3 == counters.quota_refused["", "rate"]
    assert 2 == counters.quota_refused["key0", "rate"]
    assert metrics.KEYS_MAX + 1 == len(counters.quota_refused)


def test_what_a_key_was_refused_is_a_metric() -> None:
    mesh = Harness()
    client = mesh.client(holder=key(ops=frozenset({"embed"})))
    client.request()
    client.request()
    families = {family.name: family for family in collect(Snapshot(mesh.core.metrics, mesh.core.status(mesh.now), {}))}
    (sample,) = families["mlx_mesh_quota_refused"].samples
    assert ("mlx_mesh_quota_refused_total", {"key": "ci", "reason": "op"}, 2) == (
        sample.name, sample.labels, sample.value
    )  # fmt: skip
