"""Faults of processes: killed, stopped, poisoned."""

from __future__ import annotations

from tests.faults.mixes.stage import Stage


def worker_kills(stage: Stage) -> None:
    """SIGKILL a worker every 0.2 to 0.6 s, of those that another can stand in for."""
    while stage.pause(0.2, 0.6):
        stage.kill_worker()


def worker_stops(stage: Stage) -> None:
    """SIGSTOP a worker every 0.3 to 1 s; most for a moment, some for longer than it takes to be lost."""
    while stage.pause(0.3, 1.0):
        name = stage.chance.choice([*stage.workers])
        stage.freeze(name, stage.chance.choice((0.1, 0.3, 1.0, 2.0, 7.0)))


def broker_kills(stage: Stage) -> None:
    """SIGKILL the broker about every 2 s, half of the time together with a worker."""
    while stage.pause(1.2, 2.4):
        if stage.chance.random() < 0.5:
            stage.kill_worker()
        stage.kill_broker()


def broker_stops(stage: Stage) -> None:
    """SIGSTOP the broker, for a moment or for longer than everybody's patience with it."""
    while stage.pause(0.5, 1.5):
        seconds = stage.chance.choice((0.1, 0.5, 1.5, 6.0))
        stage.freeze("broker", seconds)
        stage.pause(seconds, seconds)


def short_stop(stage: Stage) -> None:
    """SIGSTOP some worker for a moment."""
    stage.freeze(stage.chance.choice([*stage.workers]), stage.chance.choice((0.1, 0.5, 1.0)))


def watch(stage: Stage) -> None:
    """Do nothing: what hurts is among what is asked, or in how the processes were started."""
    stage.faults["watched"] += 1
    while stage.pause(0.5, 0.5):
        pass
