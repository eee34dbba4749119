"""One run of one mix: set the stage, let clients call, hurt it, heal it, and judge."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from mlx_mesh import MeshError
from tests.faults.mixes.catalogue import Mix, rare, rare_max, refusals
from tests.faults.mixes.load import GRACE_S
from tests.faults.mixes.questions import TIMEOUT_S
from tests.faults.mixes.stage import Stage, ran_twice
from tests.faults.mixes.tally import Tally
from tests.live import live_mesh, until

TOP = Path(__file__).parents[3]
LAST_S = TIMEOUT_S + 3 * GRACE_S
"""How long a client may take after its time is up, to end what it has begun."""

START_S = 60.0
"""How long all clients may take to start, on machines that are small, shared and noisy."""

REST_S = 60.0
"""How long the mesh may take to be at rest, once nothing hurts it and nobody asks."""


def run(mix: Mix, seconds: float, seed: int, keep: Path | None = None) -> Tally:
    """Run a mix once; a failed run's logs are kept in a folder, if one is named."""
    with live_mesh() as mesh:
        mesh.env |= mix.env
        stage = mix.stage(mesh, seed, workers=mix.workers, proxied=mix.proxied, limits=mix.limits, log=mix.log)
        tally = Tally()
        try:
            if mix.prepare is not None:
                mix.prepare(stage)
            stage.start()
            clients = [Client(stage, mix, number, seconds, seed) for number in range(len(mix.clients))]
            until(lambda: all(client.started() for client in clients), "all clients", START_S)
            hurt(stage, mix, seconds)
            for client in clients:
                tally.add(client.end(stage))
            judge(stage, mix, tally)
        except (AssertionError, OSError, subprocess.SubprocessError, MeshError) as error:
            tally.unhealed += 1
            tally.say(f"the trial broke off: {error!r}")
        finally:
            stage.close()
        if keep is not None and not tally.good:
            mesh.stop()
            with suppress(shutil.Error, OSError):
                shutil.copytree(mesh.dir, keep, ignore=lambda _, names: [n for n in names if n.endswith(".sock")])
    return tally


class Client:
    """A process that calls throughout."""

    def __init__(self, stage: Stage, mix: Mix, number: int, seconds: float, seed: int) -> None:
        mesh, client = stage.mesh, mix.clients[number]
        self.who = f"{client}-{number}"
        self._until = time.monotonic() + START_S + seconds + LAST_S
        self._mark = mesh.dir / f"started-{self.who}"
        task = {
            "endpoint": stage.endpoint,
            "client": client,
            "who": self.who,
            "seed": seed * 100 + number,
            "seconds": seconds,
            "marks": str(mesh.dir),
            "visit_s": mix.visit_s,
        }
        env = stage.client_env(self.who)
        command = [sys.executable, "-m", "tests.faults.mixes.load", json.dumps(task)]
        with (mesh.dir / f"{self.who}.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=env, cwd=TOP, stdout=subprocess.PIPE, stderr=log)
        mesh.processes.append(self.process)

    def started(self) -> bool:
        """Whether it calls already: who comes in the midst of a fault is a visitor."""
        return self._mark.exists() or self.process.poll() is not None

    def end(self, stage: Stage) -> Tally:
        """Wait for what it has to say; one that says nothing hangs."""
        try:
            said, _ = self.process.communicate(timeout=max(1.0, self._until - time.monotonic()))
            return Tally.from_map(json.loads(said))
        except (subprocess.TimeoutExpired, ValueError) as error:
            stage.dump()
            self.process.kill()
            self.process.communicate()
            return Tally(lost=1, words=[f"{self.who} ended without a word: {error!r}"[:300]])


def hurt(stage: Stage, mix: Mix, seconds: float) -> None:
    """Let the trouble go on for so long, then heal; while it lasts, a hang has everybody say where they are."""
    over = threading.Event()
    watcher = threading.Thread(target=_look_for_hangs, args=(stage, over), daemon=True)
    watcher.start()
    stage.act(seconds)
    mix.trouble(stage)
    stage.heal()
    over.set()
    watcher.join(10)


def _look_for_hangs(stage: Stage, over: threading.Event) -> None:
    while not over.wait(0.5):
        if any(stage.mesh.dir.glob("hang-*.txt")):
            stage.dump()
            return


def judge(stage: Stage, mix: Mix, tally: Tally) -> None:
    """Add what only the whole run shows: errors that are not allowed, double work, a mesh that does not recover."""
    for words, count in refusals(mix, tally.errors).items():
        tally.refused += count
        tally.say(f"not allowed: {count} x {words}: {tally.examples.get(words, '')}")
    set_apart(mix, tally)
    twice = [] if mix.blind else ran_twice(stage.mesh.dir)
    tally.doubled += len(twice)
    if twice:
        tally.say(f"begun twice, though at most once: {twice[:5]}")
    try:
        until(stage.at_rest, "the mesh at rest", REST_S)
    except AssertionError:
        tally.unhealed += 1
        tally.say(f"not at rest: {json.dumps(stage.status())[:2000]}")
        stage.dump()
    tally.faults.update(stage.faults)


def set_apart(mix: Mix, tally: Tally) -> None:
    """Count among the faults what a mix allows for few calls, and answers that nothing could tell to be damaged."""
    if mix.blind:
        tally.faults["damaged answers"] += tally.wrong + tally.doubled
        tally.wrong = tally.doubled = 0
        tally.words = [text for text in tally.words if ": wrong" not in text and ": doubled" not in text]
    if mix.rare:
        calls = tally.calls.total()
        count, most = rare(mix, tally.errors), rare_max(calls)
        tally.faults["lost messages"] += count
        if count > most:
            tally.refused += count
            tally.say(f"not allowed: {count} errors for lost messages in {calls} calls, where {most} may be")
