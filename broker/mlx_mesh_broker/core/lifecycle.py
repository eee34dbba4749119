"""The life of a worker as a table; the diagram in the documentation is drawn from it."""

from __future__ import annotations

from enum import StrEnum


class WorkerState(StrEnum):
    """Where a worker stands. Only READY gets new work."""

    LOADING = "loading"
    READY = "ready"
    SUSPECT = "suspect"
    STALLED = "stalled"
    DRAINING = "draining"
    LOST = "lost"
    LEFT = "left"


class Turn(StrEnum):
    """What can happen to it."""

    LOAD = "load"
    READY = "ready"
    QUIET = "quiet"
    RESUME = "resume"
    MISSED = "missed beats"
    HEARD = "heard"
    STUCK = "no progress"
    MOVED = "progress"
    SILENT = "silent too long"
    DIED = "died"
    BYE = "bye"


_S, _T = WorkerState, Turn
_ENDS = {_T.SILENT: _S.LOST, _T.DIED: _S.LOST, _T.BYE: _S.LEFT}

TRANSITIONS: dict[WorkerState, dict[Turn, WorkerState]] = {
    _S.LOADING: {_T.LOAD: _S.LOADING, _T.READY: _S.READY, _T.QUIET: _S.DRAINING, **_ENDS},
    _S.READY: {
        _T.LOAD: _S.LOADING,
        _T.READY: _S.READY,
        _T.QUIET: _S.DRAINING,
        _T.MISSED: _S.SUSPECT,
        _T.STUCK: _S.STALLED,
        **_ENDS,
    },
    _S.SUSPECT: {
        _T.LOAD: _S.LOADING,
        _T.READY: _S.READY,
        _T.HEARD: _S.READY,
        _T.QUIET: _S.DRAINING,
        **_ENDS,
    },
    _S.STALLED: {
        _T.LOAD: _S.LOADING,
        _T.READY: _S.READY,
        _T.MOVED: _S.READY,
        _T.QUIET: _S.DRAINING,
        **_ENDS,
    },
    _S.DRAINING: {_T.LOAD: _S.LOADING, _T.QUIET: _S.DRAINING, _T.RESUME: _S.READY, _T.READY: _S.READY, **_ENDS},
    _S.LOST: {},
    _S.LEFT: {},
}
"""State and turn to the next state. A pair that is not in here changes nothing."""

COMING = frozenset({WorkerState.LOADING, WorkerState.READY, WorkerState.SUSPECT, WorkerState.STALLED})
"""States of a worker that serves or may serve again by itself; work may wait for it."""


def next_state(state: WorkerState, turn: Turn) -> WorkerState:
    """Return the state after a turn; the same state where the table has no entry."""
    return TRANSITIONS[state].get(turn, state)
