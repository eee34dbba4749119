/** Engines that show what becomes of their jobs, as the module `mine` of a run directory. */

export const ENGINES = `
import os, struct, time
from mlx_mesh_wire import Tensor
from mlx_mesh_worker.engine import BatchEngine, Chunk, Engine, Result

def say(what, value):
    with open("said", "a") as file:
        file.write(f"{what} {value}\\n")

class Ticker(Engine):
    '''tick: counts for ever; hang: never answers. Both tell of their begin and their end in the file \`\`said\`\`.'''
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

class Vectors(BatchEngine):
    '''embed: the length of a text, three times. odd: a result as it should not be. nap: waits so many seconds.'''
    ops = ("embed", "nap", "fail")
    slots = 1
    batch_max = 1

    def run(self, batch):
        (value,) = batch
        if isinstance(value, dict):
            texts = value["texts"]
            if "odd" in texts:
                return [{"vectors": 1}]
            data = b"".join(struct.pack("<3f", *[len(text)] * 3) for text in texts)
            return [{
                "vectors": Tensor(data, "float32", (len(texts), 3)), "tokens": [len(t) for t in texts],
                "truncated": [i for i, t in enumerate(texts) if len(t) > 1000], "model": "small",
            }]
        if value == "raise":
            raise RuntimeError("as asked")
        time.sleep(value)
        return [value]

class Teller(Engine):
    '''generate and chat: counts from 0, two numbers in a chunk, the last one in the result.'''
    ops = ("generate", "chat")
    slots = 4
    resumes = True

    def __init__(self, model=""):
        super().__init__(model)
        self.jobs = {}

    def about(self):
        return {"batching": "one at a time"}

    def admit(self, job):
        state = job.state or b""
        self.jobs[job] = job.value(), list(struct.unpack(f"<{len(state) // 4}I", state))
        say("asked", (sorted(job.value()), os.getpid()))

    def cancel(self, job):
        if self.jobs.pop(job, None) is not None:
            say("cancel", "text")

    def step(self):
        time.sleep(0.01)
        jobs = [job for job in self.jobs if not job.blocked]
        self.mark(jobs)
        return [self.tell(job) for job in jobs]

    def tell(self, job):
        body, have = self.jobs[job]
        last = body["max_tokens"] - 1
        new = list(range(len(have), min(last, len(have) + 2)))
        if new:
            have.extend(new)
            return Chunk(job, self.shown(new))
        del self.jobs[job]
        usage = {"prompt": 1, "cached": 0, "completion": last + 1}
        end = {"finish_reason": "length", "usage": usage, "timings": {}, "model": "counting"}
        return Result(job, {**end, **self.shown([last])})

    def shown(self, tokens):
        return {"text": "".join(f"{token} " for token in tokens), "tokens": tokens}
`;
