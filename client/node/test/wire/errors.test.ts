/** One class per code, the same in each language. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";

import {
  DecodeError,
  ERROR_CLASSES,
  errorFromWire,
  InternalError,
  MeshError,
  OverloadedError,
} from "../../src/errors.js";

describe("errors", () => {
  it("are those of the specification, with its defaults", () => {
    const spec = readFileSync(new URL("../../../../../protocol/SPEC.md", import.meta.url), "utf8");
    const table = spec.slice(spec.indexOf("## 6. Errors"), spec.indexOf("## 7. Exchange"));
    const rows = [...table.matchAll(/^\| ([A-Z_]+) \|.*\| (yes|no) \|$/gm)].map(([, code, yes]) => [
      code,
      yes === "yes",
    ]);
    const ours = Object.entries(ERROR_CLASSES).map(([code, Class]) => [code, new Class("m").retryable]);
    assert.deepEqual(ours, rows);
  });

  it("have their code, their name, and are errors", () => {
    for (const [code, Class] of Object.entries(ERROR_CLASSES)) {
      const error = new Class("what happened", { details: { field: "f" }, retryAfterMs: 5, cause: "c" });
      assert.ok(error instanceof MeshError && error instanceof Error);
      assert.deepEqual(
        [error.code, error.name, error.message, error.retryAfterMs, error.details, error.cause],
        [code, Class.name, "what happened", 5, { field: "f" }, "c"],
      );
    }
    assert.ok(new DecodeError("m") instanceof ERROR_CLASSES.PROTOCOL_ERROR);
    assert.equal("cause" in new MeshError("m"), false);
  });

  it("from the wire are what the sender says, whatever the default", () => {
    const error = errorFromWire("OVERLOADED", "full", false, 250, { limit: 64 });
    assert.ok(error instanceof OverloadedError);
    assert.deepEqual([error.retryable, error.retryAfterMs, error.details], [false, 250, { limit: 64 }]);
  });

  it("of a code that is not known are internal, and keep its name", () => {
    for (const code of ["NEWER", "toString", "__proto__"]) {
      const error = errorFromWire(code, "m", true, 0);
      assert.ok(error instanceof InternalError && error.retryable);
      assert.equal(error.message, `(unknown code ${code}) m`);
    }
  });
});
