import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { Replay, scenarios } from "./replay.js";

const all = scenarios();

describe("a session does what the Python client's does", () => {
  for (const scenario of all) {
    it(scenario.name, () => {
      new Replay(scenario).run();
    });
  }
});

describe("a replay", () => {
  it("notices each kind of difference", () => {
    const changes: ((step: Record<string, unknown>) => void)[] = [
      (step) => (step.sends = [["Ping", [5]]]),
      (step) => (step.tells = [[1, "piece", "00"]]),
      (step) => (step.state = { size: 77 }),
      (step) => (step.state = { next: 1 }),
      (step) => (step.state = { moved: { 1: 9 } }),
    ];
    for (const change of changes) {
      const changed = structuredClone(all[0] ?? assert.fail());
      const step = changed.steps.at(-1) ?? assert.fail();
      assert.deepStrictEqual(Object.keys(step), ["at", "do", "message"]);
      change(step as unknown as Record<string, unknown>);
      assert.throws(() => {
        new Replay(changed).run();
      }, assert.AssertionError);
    }
  });
});
