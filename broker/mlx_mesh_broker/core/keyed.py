"""Peers with keys: whom a message is from, what a key may not do, and how those are refused who may not."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Final, NamedTuple

from mlx_mesh_broker.core.answers import Failure, failure
from mlx_mesh_broker.core.overload import RETRY_MIN_MS
from mlx_mesh_broker.core.quotas import Account, Role
from mlx_mesh_wire.messages import LANE_NAMES, Error, Flag, Request, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_mesh_broker.core import entities
    from mlx_mesh_broker.core.actions import Action
    from mlx_mesh_broker.core.quotas import Holder
    from mlx_mesh_broker.core.state import State
    from mlx_mesh_wire.messages import Message

KEY_SESSIONS_MAX: Final = 1024
"""Clients of one key at once: sixteen keys, not one, can fill the table of clients."""

NOT_AUTHORISED: Final = (
    "this key is not authorised, or not any more; see who is by `mlx-mesh keys list` where the broker runs"
)

_ROUNDING_MS: Final = 1e-6
"""A wait of so little over a whole number of milliseconds comes from the clock's own rounding."""


class _Excess(NamedTuple):
    """Which quota is exceeded, and what that is answered with."""

    quota: str
    why: Failure


class Doorman:
    """Knows the peers of one socket by their keys.

    Args:
        state: the core's tables.
        role: the role that the socket serves.
        send: makes the action that sends a message to a route of this socket.
        complain: tells a route, not too often, why it is refused.
    """

    def __init__(
        self,
        state: State,
        role: Role,
        send: Callable[[bytes, Message, tuple[()]], Action],
        complain: Callable[[bytes, str], None],
    ) -> None:
        self._state = state
        self._role = role
        self._send = send
        self._complain = complain

    def admits(self, route: bytes, message: Message, holder: Holder | None) -> bool:
        """Whether this socket serves such a key, else the message is answered; without keys it serves everybody."""
        if holder is None or holder.role == self._role:
            return True
        self._turn_away(route, message, holder)
        return False

    def account(self, holder: Holder | None) -> Account | None:
        """Return the account of a key that is served, which goes by the quotas of now; None where there are no keys."""
        if holder is None:
            return None
        state = self._state
        account = state.accounts.get(holder.name)
        if account is None:
            account = state.accounts[holder.name] = Account(holder, state.now)
        account.renew(holder, state.now)
        return account

    def refuse(self, route: bytes, message: Message, reason: str) -> None:
        """Answer UNAUTHORIZED: to each message that waits for an answer, otherwise seldom."""
        self._state.metrics.over_quota("", "unauthorized")
        asked = {Request: "request_id", Status: "id"}.get(type(message))
        if asked is None:
            self._complain(route, reason)
        else:
            why = failure("UNAUTHORIZED", reason)
            error = Error(getattr(message, asked), why.code, why.message, why.retryable, 0)
            self._state.out.append(self._send(route, error, ()))

    def _turn_away(self, route: bytes, message: Message, holder: Holder) -> None:
        """Answer a message from a key that does not fit."""
        if holder.role == Role.NONE:
            self.refuse(route, message, NOT_AUTHORISED)
        else:
            hint = f"make one for that by: mlx-mesh keys add-{self._role}"
            self.refuse(
                route, message, f"the key {holder.name!r} is for the role {holder.role}, not {self._role}; {hint}"
            )


def refusal(state: State, account: Account, request: entities.Request | None = None) -> Failure | None:
    """Say why a request, or None for a question for the status, goes over a quota of its key, and count that.

    None if it may pass, which takes a token of the rate.
    """
    excess = _over_rate(state, account) if request is None else _excess(state, account, request)
    if excess is None:
        return None
    account.refused += 1
    state.metrics.over_quota(account.holder.name, excess.quota)
    return excess.why


def _excess(state: State, account: Account, request: entities.Request) -> _Excess | None:
    holder, lane = account.holder, request.lane
    if holder.lanes and lane not in holder.lanes:
        return _forbidden(holder, "lane", LANE_NAMES[lane], (LANE_NAMES[each] for each in sorted(holder.lanes)))
    if holder.ops and request.op not in holder.ops:
        return _forbidden(holder, "op", request.op, sorted(holder.ops))
    if holder.models and request.model not in holder.models:
        return _forbidden(holder, "model", request.model, sorted(holder.models))
    if holder.outstanding_max and account.outstanding >= holder.outstanding_max:
        text = f"the key {holder.name!r} has {account.outstanding} requests outstanding, of {holder.outstanding_max}"
        return _Excess("outstanding", failure("OVERLOADED", text, retry_after_ms=RETRY_MIN_MS))
    excess = _over_rate(state, account)
    if excess is not None and state.is_early() and request.flags & Flag.RESEND:
        account.owe()  # An earlier broker has let it pass.
        return None
    return excess


def _over_rate(state: State, account: Account) -> _Excess | None:
    wait_s = account.take(state.now)
    if not wait_s:
        return None
    holder = account.holder
    text = f"the key {holder.name!r} is for {holder.rate_per_s:g} requests per second"
    return _Excess("rate", failure("OVERLOADED", text, retry_after_ms=ceil(wait_s * 1000 - _ROUNDING_MS)))


def beyond(holder: Holder, ops: Iterable[str], models: Iterable[str]) -> str:
    """Say what a worker serves that its key does not allow; an empty text if there is nothing."""
    for quota, allowed, told in (("op", holder.ops, ops), ("model", holder.models, models)):
        served = list(told)
        if allowed and quota == "model" and not served:
            served = [""]  # It would serve every name.
        for each in served:
            if allowed and each not in allowed:
                return _forbidden(holder, quota, each, sorted(allowed)).why.message
    return ""


def _forbidden(holder: Holder, quota: str, asked: str, allowed: Iterable[str]) -> _Excess:
    names = ", ".join(each or "(none named)" for each in allowed)
    what = f"the {quota} {asked!r}" if asked else f"requests that name no {quota}"
    text = f"the key {holder.name!r} does not allow {what}; allowed are: {names}"
    return _Excess(quota, failure("UNAUTHORIZED", text))
