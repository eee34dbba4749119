/** The layout of each message type: its code, and its fields in their order on the wire. */

import { anyText, bool, bytes, count, type Field, heldJob, id, int, list, map, session, text } from "./fields.js";
import * as limits from "./limits.js";
import type { Message, MessageType, Request } from "./messages.js";
import type { Job, Loading } from "./others.js";

type FieldsOf<M> = { readonly [Name in Exclude<keyof M, "type">]: Field<M[Name]> };

/** What encoding and decoding need to know of one message type. */
interface Layout<M> {
  readonly code: number;
  readonly fields: FieldsOf<M>;
}

const version = int(0, 65535);
const reason = text(0, limits.REASON_MAX_CHARS);
const flags = int(0, limits.FLAGS_MAX);
const epoch = text(1, limits.EPOCH_MAX_CHARS);
const remaining = int(0, limits.REMAINING_MAX_MS);
const names = list(anyText, 0, limits.LIST_MAX_ITEMS);
const counts = map(count);

const worker: FieldsOf<Loading> = {
  major: version,
  minor: version,
  instance: session,
  name: text(1, limits.NAME_MAX_CHARS),
  host: text(0, limits.NAME_MAX_CHARS),
  machine: text(0, 2 * limits.NAME_MAX_CHARS),
  pid: int(1, 2 ** 31 - 1),
  pidStart: count,
  ops: list(anyText, 1, limits.LIST_MAX_ITEMS),
  pureOps: names,
  models: names,
  slots: int(1, limits.SLOTS_MAX),
  loadMaxMs: remaining,
  versions: map(anyText),
  bulkSlots: int(0, limits.SLOTS_MAX),
};

const request: FieldsOf<Request> = {
  requestId: id,
  op: text(1, limits.OP_MAX_CHARS),
  model: text(0, limits.MODEL_MAX_CHARS),
  lane: int(0, 2),
  remainingMs: remaining,
  flags,
  window: int(0, limits.WINDOW_MAX_CHUNKS),
  affinity: bytes(0, limits.AFFINITY_MAX_BYTES),
  traceparent: text(0, limits.TRACEPARENT_MAX_CHARS),
  seen: count,
};

const job: FieldsOf<Job> = { jobId: id, attempt: id, session, ...request };

/** Every type of version 1, by name. */
export const LAYOUTS: { readonly [T in MessageType]: Layout<Extract<Message, { type: T }>> } = {
  Hello: {
    code: 1,
    fields: {
      major: version,
      minor: version,
      session,
      name: text(0, limits.NAME_MAX_CHARS),
      lastEpoch: text(0, limits.EPOCH_MAX_CHARS),
    },
  },
  Welcome: { code: 2, fields: { major: version, minor: version, epoch, limits: counts, intervals: counts } },
  Request: { code: 3, fields: request },
  Chunk: { code: 4, fields: { id, seq: count } },
  Final: { code: 5, fields: { id, attempts: count, queueUs: count, serviceUs: count, flags, chunks: count } },
  Error: {
    code: 6,
    fields: {
      id: count,
      code: text(1, limits.CODE_MAX_CHARS),
      message: text(0, limits.ERROR_MESSAGE_MAX_CHARS),
      retryable: bool,
      retryAfterMs: remaining,
    },
  },
  Cancel: { code: 7, fields: { id } },
  Credit: { code: 8, fields: { id, chunks: int(1, limits.WINDOW_MAX_CHUNKS) } },
  Ping: { code: 9, fields: { nonce: count } },
  Pong: { code: 10, fields: { nonce: count } },
  Bye: { code: 11, fields: { reason } },
  Reset: { code: 12, fields: { epoch, dropped: count } },
  Status: { code: 13, fields: { id } },
  Bundle: { code: 14, fields: { sizes: list(count, 2, 2 * limits.BUNDLE_MAX_MESSAGES) } },
  Again: { code: 15, fields: { id, chunks: count } },
  Loading: { code: 32, fields: worker },
  Ready: { code: 33, fields: worker },
  Held: { code: 34, fields: { instance: session, jobs: list(heldJob, 0, limits.HELD_MAX_ITEMS) } },
  Job: { code: 35, fields: job },
  Return: { code: 36, fields: { jobId: id, reason } },
  Beat: {
    code: 37,
    fields: {
      progress: count,
      held: count,
      draining: bool,
      running: list(count, 0, limits.LIST_MAX_ITEMS),
      warm: names,
      memory: counts,
      counters: counts,
    },
  },
  Quiet: { code: 38, fields: { on: bool } },
  Trim: { code: 39, fields: { level: int(0, 2) } },
  Dump: { code: 40, fields: { reason } },
  Command: { code: 48, fields: { id, name: text(1, limits.OP_MAX_CHARS) } },
  Events: { code: 49, fields: { records: count } },
};
