"""What the engines of both clients' tests have in common: they show what becomes of their jobs."""

SHOWN = """
import os, struct, time
from mlx_mesh_wire import Tensor
from mlx_mesh_worker.engine import BatchEngine, Chunk, Engine, Result

def say(what, value):
    with open("said", "a") as file:
        file.write(f"{what} {value}\\n")

def vectors(texts):
    data = b"".join(struct.pack("<3f", *[len(text)] * 3) for text in texts)
    return {
        "vectors": Tensor(data, "float32", (len(texts), 3)), "tokens": [len(t) for t in texts],
        "truncated": [i for i, t in enumerate(texts) if len(t) > 1000], "model": "small",
    }

class Ticker(Engine):
    '''tick: counts for ever; hang: never answers. Both tell of their begin and their end in the file ``said``.'''
    ops = ("tick", "hang")
    slots = 64

    def __init__(self, model=""):
        super().__init__(model)
        self.jobs = {}

    def admit(self, job):
        self.jobs[job] = 0
        say("begin", job.value())

    def cancel(self, job):
        if self.jobs.pop(job, None) is not None:
            say("cancel", job.value())

    def step(self):
        time.sleep(0.002)
        self.mark(list(self.jobs))
        out = []
        for job, count in self.jobs.items():
            if job.op == "tick" and not job.blocked:
                self.jobs[job] = count + 1
                out.append(Chunk(job, count))
        return out

"""
