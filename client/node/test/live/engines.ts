/** Engines that show what becomes of their jobs: below what they share with those of the Python client's tests. */

export const ENGINES = `
class Vectors(BatchEngine):
    '''embed: the length of a text, three times. odd: a result as it should not be. nap: waits so many seconds.'''
    ops = ("embed", "nap", "fail")
    slots = 1
    batch_max = 1

    def run(self, batch):
        (value,) = batch
        if isinstance(value, dict):
            texts = value["texts"]
            return [{"vectors": 1} if "odd" in texts else vectors(texts)]
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
