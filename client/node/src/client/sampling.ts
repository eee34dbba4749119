/** Text that is generated: what to ask for, and what comes. */

import { randomInt } from "node:crypto";

import { ProtocolError } from "../errors.js";
import type { ChatOptions, GenerateOptions, Sampling } from "../options.js";
import type { Call } from "../session/pending.js";
import { STATE_MAX_BYTES } from "../session/received.js";
import { packBody } from "../wire/body.js";
import { Flag } from "../wire/messages.js";
import { chatAffinity, promptAffinity } from "./affinity.js";
import {
  bad,
  BODY_MAX_BYTES,
  BODY_MAX_FRAMES,
  checkFields,
  checkWindow,
  GENERATE_FIELDS,
  requestOf,
} from "./checks.js";
import { sizeOf } from "./incoming.js";

/** What `randomInt` draws from at most. */
const SEED_MAX = 2 ** 48 - 1;

/** The options of sampling, as the op calls them. */
const SAMPLING: Readonly<Record<keyof Sampling, string>> = {
  maxTokens: "max_tokens",
  temperature: "temperature",
  topP: "top_p",
  topK: "top_k",
  minP: "min_p",
  seed: "seed",
  stop: "stop",
  stopTokens: "stop_tokens",
  repetitionPenalty: "repetition_penalty",
  presencePenalty: "presence_penalty",
  frequencyPenalty: "frequency_penalty",
  logitBias: "logit_bias",
  logprobs: "logprobs",
  topLogprobs: "top_logprobs",
  jsonSchema: "json_schema",
};

/** Those that are no single number. */
const NO_NUMBERS: ReadonlySet<string> = new Set(["stop", "stopTokens", "logitBias", "logprobs", "jsonSchema"]);

const FIELDS: ReadonlySet<string> = new Set([...GENERATE_FIELDS, ...Object.keys(SAMPLING)]);
const CHAT_FIELDS: ReadonlySet<string> = new Set([...FIELDS, "tools"]);

/** A token and those that were likely in its place. */
export interface TokenLogprob {
  readonly token: number;
  readonly logprob: number;
  /** Pairs of id and logprob. */
  readonly top: readonly (readonly [number, number])[];
}

/** A piece of text and the ids of its tokens; often one token, and sometimes no text yet. */
export interface TextChunk {
  readonly text: string;
  readonly tokens: readonly number[];
  /** One for each token, if asked for. */
  readonly logprobs?: readonly TokenLogprob[];
}

/** How a text ended. */
export interface GenerateResult {
  /** `stop` (an end token or a stop string), `length`, or `cancelled` if the reader left early. */
  readonly finishReason: string;
  /** Tokens: `prompt`, `cached` of it, `completion`; `moved`, how often the text went on in another worker. */
  readonly usage: Readonly<Record<string, number>>;
  /** `queue_ms`, `prefill_ms`, `decode_ms`; empty if the reader left early. */
  readonly timings: Readonly<Record<string, number>>;
  /** Name of the model; empty if the reader left early. */
  readonly model: string;
}

/** A message of a conversation, as the model's chat template takes it. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

/** Return the request of a `generate`. */
export function generateCall(prompt: string | readonly number[], options: GenerateOptions): Call {
  checkFields(options, FIELDS);
  checkPrompt(prompt);
  return callOf("generate", { prompt }, promptAffinity(prompt), options);
}

/** Return the request of a `chat`. */
export function chatCall(messages: readonly ChatMessage[], options: ChatOptions): Call {
  checkFields(options, CHAT_FIELDS);
  checkMessages(messages);
  const { tools } = options;
  const asked = tools === undefined ? { messages } : { messages, tools };
  return callOf("chat", asked, chatAffinity(messages), options);
}

function callOf(op: string, asked: object, affinity: Uint8Array, options: GenerateOptions): Call {
  const frames = packBody({ ...asked, ...samplingOf(options) });
  const window = checkWindow(options.window);
  const call = requestOf(op, frames, { ...callOptions(options), affinity }, window);
  return isResumable(call) ? { ...call, flags: call.flags | Flag.RESUMABLE } : call;
}

function callOptions({ model, timeoutMs, lane, atMostOnce, waitForReady, traceparent }: GenerateOptions): object {
  return { model, timeoutMs, lane, atMostOnce, waitForReady, traceparent };
}

/** Whether another worker may go on with it, and the request leaves room for a state in its message. */
function isResumable({ frames, flags }: Call): boolean {
  const hasRoom = sizeOf(frames) + STATE_MAX_BYTES <= BODY_MAX_BYTES && frames.length < BODY_MAX_FRAMES;
  return hasRoom && !(flags & Flag.AT_MOST_ONCE);
}

function samplingOf(options: Sampling): Record<string, unknown> {
  const asked: Record<string, unknown> = {};
  for (const [name, told] of Object.entries(SAMPLING)) {
    const value: unknown = options[name as keyof Sampling];
    if (value !== undefined && value !== null) {
      asked[told] = NO_NUMBERS.has(name) ? value : checkFinite(name, value);
    }
  }
  if (options.temperature && options.seed === undefined) {
    // Drawn here and not by the worker, so that the text goes on as it began if it has to be run again.
    asked.seed = randomInt(SEED_MAX);
  }
  return asked;
}

/** What the numbers may be is the worker's to say; what JSON could not even write is no number. */
function checkFinite(name: string, value: unknown): unknown {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw bad(name, value, "a finite number");
  }
  return value;
}

function checkPrompt(prompt: unknown): void {
  const isTokens = Array.isArray(prompt) && prompt.every((token) => Number.isSafeInteger(token) && token >= 0);
  if (typeof prompt !== "string" && !isTokens) {
    throw bad("prompt", prompt, "a string, or an array of token ids from 0");
  }
}

function checkMessages(messages: unknown): void {
  const isConversation = Array.isArray(messages) && messages.length > 0 && messages.every(isMessage);
  if (!isConversation) {
    throw bad("messages", messages, "an array of at least one object, each with a role that is a string");
  }
}

function isMessage(message: unknown): boolean {
  return typeof message === "object" && message !== null && "role" in message && typeof message.role === "string";
}

/** Return a piece of text. @throws {@link ProtocolError} it is none; an engine of another kind serves the op. */
export function textChunk(value: unknown): TextChunk {
  const parts = mapOf(value) ?? refuse("chunk", "text, tokens and logprobs");
  const text = parts.text ?? "";
  const tokens = parts.tokens ?? [];
  const logprobs = parts.logprobs ?? undefined;
  if (typeof text !== "string" || !isNumbers(tokens) || !(logprobs === undefined || Array.isArray(logprobs))) {
    return refuse("chunk", "text, tokens and logprobs");
  }
  return logprobs === undefined ? { text, tokens } : { text, tokens, logprobs: logprobs as TokenLogprob[] };
}

/** Return how a text ended. @throws {@link ProtocolError} the result does not say. */
export function resultOf(value: unknown, moved: number): GenerateResult {
  const parts = mapOf(value) ?? {};
  const { finish_reason: finishReason, model } = parts;
  const usage = mapOf(parts.usage);
  const timings = mapOf(parts.timings);
  if (typeof finishReason !== "string" || typeof model !== "string" || usage === undefined || timings === undefined) {
    return refuse("result", "finish_reason, usage, timings and model");
  }
  return {
    finishReason,
    usage: { ...(usage as Record<string, number>), moved },
    timings: timings as Record<string, number>,
    model,
  };
}

function mapOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  const isMap = typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
  return isMap ? (value as Readonly<Record<string, unknown>>) : undefined;
}

function isNumbers(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((each) => typeof each === "number");
}

function refuse(what: string, parts: string): never {
  throw new ProtocolError(`the ${what} is not made of ${parts}; does an engine of another kind serve this op?`);
}
