"""What must hold at each step of a simulation, by name. The oracle raises a Violation as soon as something does not."""

from __future__ import annotations


class Violation(AssertionError):  # noqa: N818  what is violated is the name, not the raising of it
    """An invariant does not hold.

    Attributes:
        invariant: its name, a key of INVARIANTS.
        text: what was seen instead.
    """

    def __init__(self, invariant: str, text: str) -> None:
        if invariant not in INVARIANTS:
            raise KeyError(invariant)
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant
        self.text = text

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str]]:
        """Travel between processes whole."""
        return Violation, (self.invariant, self.text)


PASSED_OVER_MAX = 11
"""How often a waiting lane is passed over while it could be served: the other eleven places of ``LANE_PATTERN``
(queues.py), in which the lowest lane has one place of twelve.
"""

INVARIANTS: dict[str, str] = {
    "one_answer": "A live client gets one terminal answer to each call, never two, and none that it did not ask for.",
    "own_body": "The body of a result is the one for that op, model and request.",
    "only_asker": "An answer or a chunk goes out only on the connection of the session that asked, for what it asked.",
    "deadline": "A call ends by its deadline plus a tick, unless its client itself does not run.",
    "not_early": "DEADLINE_EXCEEDED is never told before the deadline.",
    "no_ghost": "After a cancel, or after its end, a call is told nothing more, chunks neither.",
    "due_error": "An error is one that this call can get: no INTERNAL, no ENGINE_ERROR where no engine failed.",
    "undue_refusal": "NO_WORKER is told only when nobody serves the op, nor has done so within rejoin_s.",
    "undue_overload": "OVERLOADED is told only at a cap.",
    "waits_for_ready": "A call that waits for a worker is never told that there is none.",
    "whole_stream": "Chunks come in order, whole, none twice, none after the end, with the same content on any worker.",
    "window": "A reader is sent no more chunks than it granted.",
    "reads_are_granted": "A reader that reads is not called a slow one.",
    "client_places": "A client keeps to the places that WELCOME grants it.",
    "outstanding_only": "A JOB is for a request that is outstanding: not answered, not cancelled, not expired.",
    "one_worker": "A request is with one worker at a time; a new attempt begins when the old worker is lost, has "
    "returned it, has left, or was told to cancel it.",
    "attempts": "A request is given in vain to at most attempts_max workers, and attempts are counted one by one.",
    "poison": "A request reaches at most deaths_max workers that die of it, the later ones in a step of its own.",
    "at_most_once": "What is to run at most once is never begun twice, over all workers and broker lives.",
    "fit_worker": "A JOB goes to a worker that is ready: not one that drains, is suspect, stalled, loading or gone.",
    "serves": "A JOB goes to a worker that serves its op on its model.",
    "slots": "A worker holds at most its slots and the prefetch, and as many jobs of the bulk lane as it takes.",
    "paused_lane": "A worker whose machine is short of memory gets no new jobs of a paused lane.",
    "no_idle": "No worker with room waits beside a request that it could compute.",
    "released": "What has ended holds no slot: its job was taken back, or is another's with the same content.",
    "late_answer": "An answer for a job that the worker does not hold, any more or at all, is told to nobody.",
    "cancelled_work": "A worker that was told to cancel a job neither begins nor ends it.",
    "caps": "Queues, clients and the broker hold no more requests and bytes than their caps.",
    "starvation": f"A lane that waits is passed over at most {PASSED_OVER_MAX} times while its turn could come.",
    "lane_weights": "Of twelve requests that go while all three lanes wait, 8 are interactive, 3 standard, 1 bulk.",
    "client_turns": "No client gets a second turn in a lane while another one there has waited since the first.",
    "parked": "What must not run again waits for the worker that may hold it until rejoin_s, no longer.",
    "expiry": "The broker keeps nothing that has expired.",
    "counters": "Accepted requests are the answered and the outstanding ones.",
    "same_books": "The core's tables say what its messages have told.",
    "core_invariants": "What the core keeps twice agrees (invariants.py of the core).",
    "welcome_first": "A worker or client that registers is welcomed before it gets anything else.",
    "held_up": "Nobody is judged for the time in which the broker itself did not run.",
    "healed": "After healing all that is outstanding ends, nothing is left anywhere, and new calls succeed.",
    "no_spinning": "The core and the sessions ask to be woken only if that lets them go on.",
    "no_exception": "Neither the core nor a session raises an exception.",
}
"""Name to meaning; every Violation has one of these names."""


def table() -> str:
    """Return the invariants as lines of text."""
    width = max(map(len, INVARIANTS))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in INVARIANTS.items())
