/**
 * Which texts go to the same worker: those that begin alike, since it has read that beginning before.
 *
 * Every client language makes the same keys: they are held to `protocol/vectors/affinity.json`.
 */

import { createHash } from "node:crypto";

/** Long enough to tell system prompts apart, short enough for the questions behind one to share a key. */
const AFFINITY_CHARS = 512;

/** A system prompt and the first question: what all turns of a conversation have in common. */
const MESSAGES = 2;

/** Return the key of a prompt, a text or token ids. */
export function promptAffinity(prompt: unknown): Uint8Array {
  if (typeof prompt === "string") {
    return digest(prompt);
  }
  // Each id is at least one character, so that more ids than characters are not needed.
  return digest(listOf(prompt).slice(0, AFFINITY_CHARS).join(","));
}

/** Return the key of a conversation. */
export function chatAffinity(messages: unknown): Uint8Array {
  return digest(listOf(messages).slice(0, MESSAGES).map(textOf).join("\n"));
}

/** Return the text of a message; empty where it has none, which is for the worker to judge. */
function textOf(message: unknown): string {
  const content = fieldOf(message, "content");
  return typeof content === "string" ? content : listOf(content).map(partOf).join("");
}

function partOf(part: unknown): string {
  const text = fieldOf(part, "text");
  return typeof text === "string" ? text : "";
}

function fieldOf(value: unknown, field: string): unknown {
  return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>)[field] : undefined;
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function digest(beginning: string): Uint8Array {
  // A character takes one or two units; only whole ones count.
  const chars = Array.from(beginning.slice(0, 2 * AFFINITY_CHARS)).slice(0, AFFINITY_CHARS);
  return createHash("sha256").update(chars.join(""), "utf8").digest();
}
