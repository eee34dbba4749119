import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { InvalidRequestError, OverloadedError } from "../../src/errors.js";
import { Agenda, STALE_MAX } from "../../src/session/agenda.js";
import { Lanes } from "../../src/session/lanes.js";
import { CREDIT_AFTER_MS, Pending } from "../../src/session/pending.js";
import { Received, STATE_MAX_BYTES } from "../../src/session/received.js";
import { BACKOFF_FIRST_MS, BACKOFF_MAX_MS, BUDGET_MAX, RetryBudget } from "../../src/session/retry.js";
import { packBody } from "../../src/wire/body.js";
import { callWith } from "./bench.js";

function pendingWith(given: Parameters<typeof callWith>[0] = {}): Pending {
  return new Pending(
    callWith(given),
    1000,
    () => undefined,
    () => undefined,
  );
}

function end(agenda: Agenda, pending: Pending): void {
  pending.ended = true;
  agenda.ended();
}

/** Numbers from 0 to 1 that are the same each time. */
function dice(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
}

describe("an agenda", () => {
  it("gives what is due in order of time, and then as it was noted", () => {
    const agenda = new Agenda();
    const [third, first, second] = [pendingWith(), pendingWith(), pendingWith()];
    agenda.add(3, third, false);
    agenda.add(1, first, false);
    agenda.add(1, second, false);
    agenda.add(1, third, true);
    assert.equal(agenda.due(0.9), undefined);
    for (const [pending, retry] of [
      [first, false],
      [second, false],
      [third, true],
    ] as const) {
      const item = agenda.due(1);
      assert.strictEqual(item?.pending, pending);
      assert.equal(item.retry, retry);
    }
    assert.equal(agenda.due(1), undefined);
    assert.equal(agenda.next(), 3);
  });

  it("is a sorted list to whoever looks, whatever is added, ends and comes due in between", () => {
    const random = dice(7);
    const agenda = new Agenda();
    let model: { when: number; pending: Pending }[] = [];
    for (let now = 0; now < 3000; now++) {
      if (random() < 0.6) {
        const entry = { when: now + Math.floor(random() * 900), pending: pendingWith() };
        agenda.add(entry.when, entry.pending, false);
        model.push(entry);
      }
      const chosen = random() < 0.4 ? model[Math.floor(random() * model.length)] : undefined;
      if (chosen !== undefined) {
        end(agenda, chosen.pending);
        model = model.filter((entry) => entry !== chosen);
      }
      model.sort((one, other) => one.when - other.when);
      for (let first = model[0]; first !== undefined && first.when <= now; first = model[0]) {
        assert.strictEqual(agenda.due(now)?.pending, first.pending);
        model.shift();
      }
      assert.equal(agenda.due(now), undefined);
      assert.equal(agenda.next(), model[0]?.when);
    }
    assert.ok(model.length > 50);
  });

  it("drops ended calls once they are many and the larger part", () => {
    const agenda = new Agenda();
    const calls = Array.from({ length: 4 * STALE_MAX }, () => pendingWith());
    calls.forEach((pending, at) => {
      agenda.add(at, pending, false);
    });
    calls.slice(0, 2 * STALE_MAX).forEach((pending) => {
      end(agenda, pending);
    });
    assert.equal(agenda.size, 4 * STALE_MAX);
    end(agenda, calls[2 * STALE_MAX] ?? assert.fail());
    assert.deepStrictEqual([...agenda], calls.slice(2 * STALE_MAX + 1));
  });

  it("does not count those again that are gone already", () => {
    const agenda = new Agenda();
    for (const look of [() => agenda.due(2), () => agenda.next()]) {
      for (let number = 0; number < STALE_MAX; number++) {
        const pending = pendingWith();
        agenda.add(1, pending, false);
        end(agenda, pending);
      }
      assert.equal(agenda.size, STALE_MAX);
      look();
      assert.equal(agenda.size, 0);
    }
  });
});

describe("a budget of retries", () => {
  const overloaded = (retryAfterMs = 0): OverloadedError => new OverloadedError("full", { retryAfterMs });

  it("doubles pauses up to a bound, half of each by chance", () => {
    for (const [chance, share] of [
      [0, 0.5],
      [1, 1.5],
    ] as const) {
      const pauses = Array.from({ length: 8 }, (_, retries) =>
        new RetryBudget(() => chance).pauseMs(overloaded(), retries),
      );
      const whole = [1, 2, 4, 8, 16, 32].map((factor) => factor * BACKOFF_FIRST_MS);
      assert.deepStrictEqual(
        pauses,
        [...whole, BACKOFF_MAX_MS, BACKOFF_MAX_MS].map((ms) => ms * share),
      );
    }
  });

  it("only adds to what the broker asked for", () => {
    assert.equal(new RetryBudget(() => 0).pauseMs(overloaded(3000), 0), 3000);
    assert.equal(new RetryBudget(() => 1).pauseMs(overloaded(3000), 0), 3000 + BACKOFF_FIRST_MS);
  });

  it("has ten, and one more for ten requests; what is final costs nothing", () => {
    const budget = new RetryBudget(() => 0.5);
    const spent = (): number => {
      let count = 0;
      while (budget.pauseMs(overloaded(), 0) !== undefined) {
        count += 1;
      }
      return count;
    };
    budget.earn();
    assert.equal(budget.pauseMs(new InvalidRequestError("no"), 0), undefined);
    assert.equal(spent(), BUDGET_MAX);
    const earned = Array.from({ length: 11 }, () => {
      budget.earn();
      return spent();
    });
    assert.equal(
      earned.reduce((sum, count) => sum + count),
      1,
    );
  });
});

describe("a reader", () => {
  it("grants half a window at a time", () => {
    const reader = pendingWith({ window: 4 });
    assert.deepStrictEqual(
      [1, 2, 3, 4].map(() => reader.take(250)),
      [0, 2, 0, 2],
    );
  });

  it("that is slow grants what it has read after a second, at whatever time it began", () => {
    for (const start of [0, 5000]) {
      const reader = pendingWith({ window: 100 });
      const grants = [0, 0.5, 1, 1.5, 2].map((share) => reader.take(start + share * CREDIT_AFTER_MS));
      assert.deepStrictEqual(grants, [0, 0, 3, 0, 2]);
    }
  });

  it("has room for what it has not taken, less what has come", () => {
    const reader = pendingWith({ window: 4 });
    reader.nextSeq = 3;
    assert.equal(reader.room(), 1);
    reader.take(0);
    assert.equal(reader.room(), 2);
    reader.nextSeq = 9;
    assert.equal(reader.room(), 0);
  });
});

describe("lanes", () => {
  it("give the higher ones first, each in its order, and forget who left", () => {
    const lanes = new Lanes();
    const [bulk, one, two, gone, urgent] = ([2, 1, 1, 0, 0] as const).map((lane) => pendingWith({ lane }));
    for (const pending of [bulk, one, two, gone, urgent]) {
      lanes.add(pending ?? assert.fail());
    }
    lanes.delete(gone ?? assert.fail());
    lanes.delete(gone ?? assert.fail());
    assert.equal(lanes.size, 4);
    assert.deepStrictEqual([...lanes], [urgent, one, two, bulk]);
    assert.deepStrictEqual(
      [1, 2, 3, 4, 5].map(() => lanes.shift()),
      [urgent, one, two, bulk, undefined],
    );
    assert.equal(lanes.size, 0);
  });
});

describe("a state", () => {
  const chunk = (tokens: unknown): Uint8Array[] => packBody({ tokens });

  it("is the tokens in order, little-endian, of many chunks", () => {
    const received = new Received();
    assert.deepStrictEqual(received.state(), new Uint8Array(0));
    for (let first = 0; first < 1000; first += 10) {
      received.add(chunk(Array.from({ length: 10 }, (_, at) => (first + at) * 4_000_000)));
    }
    const state = received.state() ?? assert.fail();
    const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
    const read = Array.from({ length: 1000 }, (_, at) => view.getUint32(4 * at, true));
    assert.equal(state.byteLength, 4000);
    assert.deepStrictEqual(
      read,
      Array.from({ length: 1000 }, (_, at) => at * 4_000_000),
    );
  });

  it("is not changed by what comes after it was taken", () => {
    const received = new Received();
    received.add(chunk([1]));
    const state = received.state();
    received.add(chunk([2]));
    assert.deepStrictEqual(state, new Uint8Array([1, 0, 0, 0]));
  });

  it("may be as long as the longest answer and no longer", () => {
    const received = new Received();
    const several = Array.from({ length: STATE_MAX_BYTES / 4 / 16 }, () => 7);
    for (let number = 0; number < 16; number++) {
      received.add(chunk(several));
    }
    assert.equal(received.state()?.byteLength, STATE_MAX_BYTES);
    received.add(chunk([]));
    assert.equal(received.state()?.byteLength, STATE_MAX_BYTES);
    received.add(chunk([1]));
    assert.equal(received.state(), undefined);
  });

  it("is unknown for good after a chunk that names no tokens", () => {
    const odd = [chunk([-1]), chunk([2 ** 32]), chunk([1.5]), chunk(["a"]), chunk([true]), chunk(null), chunk("12")];
    for (const frames of [...odd, packBody([]), packBody({}), packBody(null), [Buffer.from([0xc1])]]) {
      const received = new Received();
      received.add(frames);
      received.add(chunk([1]));
      assert.equal(received.state(), undefined);
    }
  });
});
