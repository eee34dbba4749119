import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { chatCall, generateCall } from "../../src/client/sampling.js";
import { InvalidRequestError } from "../../src/index.js";
import type { ChatMessage } from "../../src/index.js";
import { hex, vectors } from "../wire/vectors.js";

interface AffinityCase {
  readonly name: string;
  readonly asked: { readonly prompt?: string | readonly number[]; readonly messages?: readonly ChatMessage[] };
  readonly key: string;
}

function keyOf({ prompt, messages }: AffinityCase["asked"]): string {
  const call = prompt === undefined ? chatCall(messages ?? [], {}) : generateCall(prompt, {});
  return hex(call.affinity);
}

describe("affinity keys", () => {
  for (const { name, asked, key } of vectors("affinity") as readonly AffinityCase[]) {
    it(`are those of the vectors: ${name}`, () => {
      assert.equal(keyOf(asked), key);
    });
  }

  it("are not made of what is no prompt, which is refused", () => {
    assert.throws(() => keyOf({ prompt: 5 as unknown as string }), InvalidRequestError);
    assert.throws(() => keyOf({ messages: [5 as unknown as ChatMessage] }), InvalidRequestError);
    assert.throws(() => keyOf({ messages: null as unknown as ChatMessage[] }), InvalidRequestError);
  });
});
