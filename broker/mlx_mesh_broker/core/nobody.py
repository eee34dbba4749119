"""Why nobody computes a request: what the mesh serves instead, which processes were given up, what would help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_mesh_broker.core.answers import failure
from mlx_mesh_wire import limits

if TYPE_CHECKING:
    from mlx_mesh_broker.core.answers import Failure
    from mlx_mesh_broker.core.state import State
    from mlx_mesh_wire.guard_report import Troubled

NAMED_MAX: Final = 3
"""Processes that one error names; the others have the same cause more often than not."""

NAMED_MAX_CHARS: Final = 220
"""What is said of each of them, so that three leave room for the rest of the text."""


def no_worker(state: State, op: str, model: str) -> Failure:
    """Return why there is nobody to compute an op, which processes were given up, and what would help."""
    catalogue = state.catalogue
    if op in catalogue.models and not catalogue.serves(op, model):
        models = catalogue.models_named(op)
        code, text = "UNKNOWN_MODEL", f"no worker serves {op!r} with model {model!r}; there is {models}"
        why = _given_up(state, op, model)
    else:
        code, text = "NO_WORKER", _nobody(state, op, model)
        why = _given_up(state, op, "")
    return failure(code, text[: limits.ERROR_MESSAGE_MAX_CHARS - len(why)] + why)


def _nobody(state: State, op: str, model: str) -> str:
    leaving = sorted(worker.info.name for worker in state.instances.values() if worker.serves(op, model))
    if leaving:  # One that was not would have been given the request.
        names = ", ".join(leaving[:NAMED_MAX]) + (" and others" if len(leaving) > NAMED_MAX else "")
        return f"all workers that serve {op!r} are draining ({names}); start another, or pass wait_for_ready=True"
    offers = f"the mesh serves {state.catalogue.ops_named()}" if state.catalogue.models else "the mesh has no workers"
    return f"no worker serves {op!r}; {offers}; start one, or pass wait_for_ready=True to wait for it"


def _given_up(state: State, op: str, model: str) -> str:
    """Return which processes would serve the op on the model, had they not been given up; an empty model means any.

    Of a process that has not been here in this epoch nobody knows what it serves, so it is named if no other is.
    """
    report = state.guard.report
    if report is None or not report.troubled:
        return ""
    served = {each: state.roster.served(each.name, op, model) for each in report.troubled}
    fit = [each for each, known in served.items() if known]
    if not fit and op not in state.catalogue.models:
        fit = [each for each, known in served.items() if known is None]
    age_s = state.now - state.guard.told_at
    return "".join("; " + _told(each, age_s) for each in fit[:NAMED_MAX])


def _told(process: Troubled, age_s: float) -> str:
    again = f"it is started again in {max(0.0, process.retry_s - age_s):.0f} s"
    end = f"; {again}" if process.retry_s >= 0 else ""
    text = ": ".join(filter(None, (f"{process.name} is {process.state}", process.reason)))
    # Reasons are lines of logs, with colours perhaps.
    plain = "".join(each if each.isprintable() else " " for each in text)
    return plain[: NAMED_MAX_CHARS - len(end)] + end
