"""The engine of the trials: its answers can be checked, its streams take a while, and it notes what it began."""

TRIAL = """
import hashlib, os, signal, time
from pathlib import Path
from mlx_mesh_worker.engine import Chunk, Engine, Result

FOLDER = Path(__file__).parent
STEP_S = 0.003

class Trial(Engine):
    ops = ("digest", "once", "tell")
    slots = 16

    def __init__(self, model=""):
        super().__init__(model)
        self._jobs, self._streams = {}, {}

    def load(self):
        self._ran = os.open(FOLDER / "ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def admit(self, job):
        if job.stream:
            self._streams[job] = [0, job.value()]
        else:
            self._jobs[job] = job.value()

    def cancel(self, job):
        self._jobs.pop(job, None)
        self._streams.pop(job, None)

    def step(self):
        alone = next((job for job in (*self._jobs, *self._streams) if job.alone), None)
        whole = [job for job in self._jobs if alone in (None, job)]
        told = [job for job in self._streams if alone in (None, job) and not job.blocked]
        self.mark([*whole, *told])
        time.sleep(STEP_S)
        return [self._answer(job) for job in whole] + [self._tell(job) for job in told]

    def _answer(self, job):
        op, (nonce, data) = job.op, self._jobs.pop(job)
        if data == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if op == "once":
            os.write(self._ran, f"{nonce}\\n".encode())
        return Result(job, [nonce, hashlib.sha256(data).hexdigest()])

    def _tell(self, job):
        at, (nonce, count) = self._streams[job]
        if at == count:
            del self._streams[job]
            return Result(job, [nonce, count])
        self._streams[job][0] += 1
        return Chunk(job, [nonce, at])
"""
