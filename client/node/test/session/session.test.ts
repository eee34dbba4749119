import assert from "node:assert/strict";
import { describe, it } from "node:test";

import {
  CancelledError,
  DeadlineExceededError,
  MeshError,
  OverloadedError,
  UnauthorizedError,
} from "../../src/errors.js";
import type { Agenda } from "../../src/session/agenda.js";
import type { Calls } from "../../src/session/calls.js";
import { WAITING_MAX } from "../../src/session/lanes.js";
import { closedError } from "../../src/session/outcomes.js";
import { Session } from "../../src/session/session.js";
import { packBody } from "../../src/wire/body.js";
import { Flag } from "../../src/wire/messages.js";
import { Bench, BODY, failure, final, KEY, welcome } from "./bench.js";

describe("a session", () => {
  it("begins with HELLO", () => {
    const session = new Session(KEY, "test", "ipc://nowhere", () => 0.5);
    session.connected(0);
    const hello = { type: "Hello", major: 1, minor: 0, session: KEY, name: "test", lastEpoch: "" };
    assert.deepStrictEqual(session.drain(), [{ message: hello, frames: [] }]);
    assert.deepStrictEqual(session.drain(), []);
  });

  it("is told of a time in fractions of a millisecond as well", () => {
    const bench = new Bench();
    bench.now += 0.4;
    bench.call({ timeoutMs: 2500.7 });
    bench.call({ timeoutMs: 0.1 });
    const left = bench.said().map((message) => message.type === "Request" && message.remainingMs);
    assert.deepStrictEqual(left, [2500, 1]);
  });

  it("refuses one call too many at once, and that may be tried again", () => {
    const bench = new Bench(welcome("e1", { outstanding_max: 1 }));
    for (let number = 1; number <= 1 + WAITING_MAX; number++) {
      bench.call();
    }
    assert.equal(bench.outcomes.size, 0);
    bench.call();
    const refused = bench.outcomes.get(WAITING_MAX + 2);
    assert.ok(refused instanceof OverloadedError);
    assert.ok(refused.retryable);
    assert.match(refused.message, /1024 calls wait/);
    assert.equal(bench.session.size, 1 + WAITING_MAX);
  });

  it("takes 64 places until WELCOME tells the number", () => {
    const bench = Bench.unwelcomed();
    for (let number = 1; number <= 65; number++) {
      bench.call();
    }
    assert.equal(bench.said().length, 64);
  });

  it("takes no number that a map of WELCOME does not have itself", () => {
    const inherited = Object.create({ outstanding_max: 1, ping_ms: 1 }) as Record<string, number>;
    const bench = new Bench({ ...welcome("e1", inherited), intervals: inherited });
    bench.call();
    bench.call();
    assert.equal(bench.said().length, 2);
    assert.equal(bench.session.nextTick(), bench.now + 1000);
  });

  it("says at a deadline what was asked for and for how long", () => {
    const bench = new Bench();
    bench.call({ op: "embed", timeoutMs: 1500 });
    bench.advance(1500);
    const outcome = bench.outcomes.get(1);
    assert.ok(outcome instanceof DeadlineExceededError);
    assert.equal(outcome.message, "no answer to 'embed' within 1.5 s");
  });

  it("says what to do when no broker answers", () => {
    const bench = Bench.unwelcomed();
    bench.call({ timeoutMs: 1000 });
    bench.advance(1000);
    const outcome = bench.outcomes.get(1);
    assert.ok(outcome instanceof MeshError);
    for (const part of ["ipc://nowhere", "within 1 s", "mlx-mesh up", "MLX_MESH_ENDPOINT"]) {
      assert.ok(outcome.message.includes(part), part);
    }
  });

  it("hands on what an error says, with details only if they are a map", () => {
    const bench = new Bench();
    const bodies = [packBody({ field: "texts", index: 3 }), packBody([1]), [Buffer.from([0xc1])], packBody("x"), []];
    const details = bodies.map((frames, at) => {
      bench.call();
      bench.hear(failure(at + 1, "INVALID_REQUEST"), frames);
      const outcome = bench.outcomes.get(at + 1);
      assert.ok(outcome instanceof MeshError);
      assert.deepStrictEqual([outcome.code, outcome.message], ["INVALID_REQUEST", "why"]);
      return { ...outcome.details };
    });
    assert.deepStrictEqual(details, [{ field: "texts", index: 3 }, {}, {}, {}, {}]);
  });

  it("ends all calls with the broker's words when its key is not taken", () => {
    const bench = new Bench(welcome("e1", { outstanding_max: 1 }));
    bench.call();
    bench.call();
    bench.hear(failure(0, "UNAUTHORIZED"));
    for (const number of [1, 2]) {
      const outcome = bench.outcomes.get(number);
      assert.ok(outcome instanceof UnauthorizedError);
      assert.equal(outcome.message, "why");
    }
    assert.equal(bench.session.size, 0);
  });

  it("ends calls in the client, on the wire and in a pause when it is closed", () => {
    const bench = new Bench(welcome("e1", { outstanding_max: 2 }));
    bench.call();
    bench.call();
    bench.call();
    bench.hear(failure(1, "OVERLOADED", true));
    bench.session.close(closedError());
    assert.deepStrictEqual(
      [1, 2, 3].map((number) => bench.outcomes.get(number) instanceof CancelledError),
      [true, true, true],
    );
    assert.deepStrictEqual(bench.said().at(-1), { type: "Bye", reason: "closed" });
    assert.equal(bench.session.size, 0);
  });

  it("sends the very frames of a call again, with the state behind them, and never changes them", () => {
    const bench = new Bench();
    const frames = [new Uint8Array([0xa1, 0x78]), new Uint8Array([1, 2])];
    bench.call({ window: 8, flags: Flag.RESUMABLE, frames });
    bench.hear({ type: "Chunk", id: 1, seq: 0 }, packBody({ text: "", tokens: [1, 2 ** 32 - 1] }));
    bench.hear({ type: "Again", id: 1, chunks: 1 });
    const [first, again] = bench.session.drain();
    assert.strictEqual(first?.frames, frames);
    assert.deepStrictEqual(again?.frames, [...frames, new Uint8Array([1, 0, 0, 0, 255, 255, 255, 255])]);
    assert.equal(frames.length, 2);
  });

  it("lets the deadlines of ended calls not pile up, however they ended", () => {
    for (const cancelled of [0, 1 / 3, 1]) {
      const bench = new Bench();
      for (let number = 1; number <= 3000; number++) {
        const pending = bench.call();
        if ((number % 3) / 3 < cancelled) {
          bench.session.cancel(pending);
        } else {
          bench.hear(final(number), BODY);
        }
      }
      const { size } = Reflect.get(Reflect.get(bench.session, "calls") as Calls, "agenda") as Agenda;
      assert.ok(size < 1000, `${size} are left`);
    }
  });

  it("wakes nobody for a call that has ended", () => {
    const bench = new Bench();
    bench.call({ timeoutMs: 2000 });
    bench.hear(final(1), BODY);
    assert.equal(bench.session.nextTick(), bench.now + 30_000);
  });
});

describe("events of a session", () => {
  it("tell of a connection once, and of another broker", () => {
    const bench = new Bench();
    bench.hear(welcome("e1"));
    assert.deepStrictEqual(bench.events, [{ type: "connected", epoch: "e1" }]);
    bench.hear({ type: "Reset", epoch: "e2", dropped: 0 });
    bench.hear(welcome("e2"));
    assert.deepStrictEqual(bench.events.slice(1), [
      { type: "connected", epoch: "e2" },
      { type: "epoch", epoch: "e2", previous: "e1" },
    ]);
  });

  it("tell of silence once for each new connection", () => {
    const bench = new Bench();
    bench.call();
    bench.advance(11_000);
    const silence = { type: "reconnecting", reason: "silence" };
    assert.deepStrictEqual(bench.events.slice(1), [silence, silence]);
  });

  it("tell of a gap in a stream once, however often it shows", () => {
    const bench = new Bench();
    bench.call({ window: 4 });
    bench.hear({ type: "Again", id: 1, chunks: 3 });
    bench.hear({ type: "Again", id: 1, chunks: 3 });
    assert.deepStrictEqual(bench.events.slice(1), [{ type: "reconnecting", reason: "gap" }]);
    assert.ok(bench.session.reconnect);
  });

  it("need nobody to listen", () => {
    const bench = new Bench();
    bench.session.onEvent = undefined;
    bench.hear(welcome("e2"));
    bench.call();
    bench.advance(6000);
    assert.equal(bench.events.length, 1);
  });
});
