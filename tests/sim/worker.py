"""A worker's process: the real session, and an engine that only takes time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import messages
from mlx_mesh_worker.runner import Admit, Cancel, Trim, Withdraw
from mlx_mesh_worker.session import Session, Vitals
from mlx_mesh_worker.session_actions import Leave, Reconnect, Send
from tests.sim.engine import Engine
from tests.sim.party import INFINITY, Party

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sim.world import World

ANNOUNCE_S = 0.3
"""A worker that loads for longer than this says LOADING."""

DRAIN_S = 30.0
"""How long a worker that is told to leave goes on with what it holds."""


class SimWorker(Party):
    """One worker after the other in one place, as supervisord keeps it.

    Attributes:
        instance: of the process of now, or of the last one.
        local: it runs on the broker's machine.
        engine: what computes.
        announced: it has told the broker of itself.
        past: job ids of old Finals, for forgeries.
    """

    role = "worker"

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self.plan = world.swarm.workers[number]
        self.local = self.plan.local
        self.lives = 0
        self.instance = b""
        self.engine = Engine(self)
        self.announced = False
        self.leaving = False
        self.slow = 1.0
        self.restart_s = 1.0
        self.past: list[messages.Final] = []

    def info(self) -> messages.Ready:
        """Return what READY says."""
        plan = self.plan
        machine = "here" if plan.local else "elsewhere"
        pid = 1 + self.number * 100_000 + self.lives
        return messages.Ready(
            1, 0, self.instance, f"w{self.number}", "h", machine, pid, 1, list(plan.ops), list(plan.pure),
            list(plan.models), plan.slots, 60_000, {}, plan.bulk_slots,
        )  # fmt: skip

    def start(self, _: Any = None) -> None:
        """Begin another life, which begins with loading."""
        if self.alive:
            return
        self.lives += 1
        self.alive = True
        self.announced = self.leaving = self.stopped = False
        self.parked = []
        self.tick_at = INFINITY
        self.instance = b"worker%04d%06d" % (self.number, self.lives)
        self.engine.reset()
        self.session = Session(self.info(), self.now, resumes=self.world.swarm.resumes)
        self.connect(self.world.connect_s(self))
        self.world.instances[self.instance] = self
        load_s = 0.05 if self.world.healing else self.plan.load_s
        if load_s > ANNOUNCE_S:
            self.scheduler.after(ANNOUNCE_S, self._announce, self.lives)
        self.scheduler.after(load_s, self._loaded, self.lives)

    def _announce(self, lives: int) -> None:
        if self.alive and lives == self.lives and not self.session.ready:
            if self.stopped:
                self.scheduler.after(0.1, self._announce, lives)
                return
            self.announced = True
            self.session.connected(self.now)
            self.flush()
            self.arm()

    def _loaded(self, lives: int) -> None:
        if self.alive and lives == self.lives and not self.leaving:
            if self.stopped:
                self.scheduler.after(0.1, self._loaded, lives)
                return
            self.announced = True
            self.session.loaded(self.info(), self.now)
            self.flush()
            self.arm()

    def told(self) -> None:
        """Do what the session wants done after what it heard."""
        if self.session.actions:
            self.flush()
        if self.engine.blocked:
            self.engine.unblock()
        if self.tick_at == INFINITY and self.announced and self.alive:
            self.arm()

    def tick(self, now: float) -> None:
        """Beat, ping, and judge the broker's silence."""
        if not self.announced:
            return
        self.session.tick(now, self._vitals)
        self.flush()
        if self.alive:
            self.arm()

    def _vitals(self) -> Vitals:
        engine = self.engine
        return Vitals(engine.progress, [job.id for job in engine.running if job.id > 0], self.plan.warm, {}, {})

    def flush(self) -> None:
        """Do what the session decided."""
        session = self.session
        while session.actions and self.alive:
            actions = session.actions
            session.actions = []
            for action in actions:
                kind = type(action)
                if kind is Send:
                    self.wire.up.send(action[0], action[1])
                elif kind is Admit:
                    self.engine.admit(action.job)
                elif kind is Cancel:
                    self.engine.cancel(action.job)
                elif kind is Withdraw:
                    self.engine.withdraw(action.job)
                elif kind is Leave:
                    self.exit()
                    return
                elif kind is Reconnect:
                    world = self.world
                    self.renew(world.connect_s(self), notice_s=world.notice_s(self), unsent=False)
                    session.connected(self.now)
                elif kind is Trim:
                    self.world.trims += 1
        if self.engine.waiting:
            self.engine.pump()

    def resume(self) -> None:
        """Go on; what should have been computed meanwhile is done now."""
        super().resume()
        if self.alive and not self.engine.frozen:
            self.engine.thaw()

    def terminate(self, restart_s: float) -> None:
        """SIGTERM, once or more often."""
        if not self.alive or self.stopped:
            return
        again, self.leaving = self.leaving, True
        self.restart_s = restart_s
        if again or not self.session.ready:
            self.session.abandon("told to leave")
        else:
            self.session.drain(self.now)
            self.scheduler.after(DRAIN_S, self._hurry, self.lives)
        self.flush()
        if self.alive and self.announced:
            self.arm()

    def _hurry(self, lives: int) -> None:
        if self.alive and lives == self.lives:
            self.stopped = False
            self.session.abandon("drain time is over")
            self.flush()

    def exit(self) -> None:
        """End in order: what was sent arrives, and there is no record."""
        self.world.oracle.drained(self)
        self._end(True, 0.0, None, self.restart_s)

    def die(self, restart_s: float, notice_s: float = 0.0, up_arrives: bool = True, recorded: bool = True) -> None:
        """Crash in the midst of what is computed."""
        if not self.alive:
            return
        self.world.oracle.died(self)
        running = frozenset(job.id for job in self.engine.running if job.id > 0) if recorded else None
        self._end(up_arrives, notice_s, running, restart_s)

    def _end(self, up_arrives: bool, notice_s: float, running: Any, restart_s: float) -> None:
        world, wire = self.world, self.wire
        self.alive = self.stopped = False
        self.engine.reset()
        if running is not None:
            world.records[self.instance] = running
        wire.dead = True
        wire.down.drop()
        if not up_arrives or not wire.opened:
            wire.up.drop()
        else:
            wire.up.release()
            world.last_words[self.instance] = (wire.up,)
        if wire.opened:
            world.broker.forget(wire, notice_s)
        if self.local and world.swarm.pid_watch:
            self.scheduler.after(0.002, world.broker.exited, self.instance)
        self.scheduler.after(restart_s, self.start)

    def forge(self, what: int, number: int, jobs: Sequence[int]) -> None:
        """Say something about a job that is not true. ``jobs`` are ids of all workers' jobs."""
        if not self.alive or self.stopped or not self.announced:
            return
        past = self.past[number % len(self.past)] if self.past else None
        stranger = jobs[number % len(jobs)] if jobs else 1
        lie = (b"forged",)
        say = self.wire.up.send
        if what == 0 and past is not None:
            say(past, lie)
        elif what == 1 and stranger not in self.session.jobs and stranger > 0:
            say(messages.Final(stranger, 1, 0, 0, 0), lie)
        elif what == 2:
            say(messages.Final(1 + number * 7919, 1, 0, 0, 0), lie)
        elif what == 3 and stranger not in self.session.jobs and stranger > 0:
            say(messages.Error(stranger, "ENGINE_ERROR", "forged", False, 0), ())
        elif what == 4 and stranger not in self.session.jobs and stranger > 0:
            say(messages.Chunk(stranger, number % 3), lie)
        elif what == 5 and past is not None:
            say(messages.Return(past.id, "forged"), ())
        elif what == 6:
            say(messages.Ping(number), ())
        elif what == 7:
            say(messages.Hello(1, 0, b"x" * 16, "forged", ""), ())
