/** The client. */

import { MeshError } from "../errors.js";
import type {
  ChatOptions,
  CloseOptions,
  EmbedOptions,
  GenerateOptions,
  ReadyOptions,
  RequestOptions,
  StatusOptions,
  StreamOptions,
} from "../options.js";
import type { Call } from "../session/pending.js";
import { STATUS_OP } from "../session/session.js";
import { packBody, unpackBody } from "../wire/body.js";
import type { Final } from "../wire/messages.js";
import { abortedError, checkNotAborted, onAbort } from "./abort.js";
import {
  checkFields,
  checkOp,
  checkSignal,
  checkTimeout,
  checkWindow,
  EMBED_FIELDS,
  REQUEST_FIELDS,
  requestOf,
  STREAM_FIELDS,
} from "./checks.js";
import { Embeddings } from "./embeddings.js";
import type { EventHub, MeshEvent } from "./events.js";
import { Generation } from "./generation.js";
import type { Link } from "./link.js";
import { statusOf, waitReady } from "./ready.js";
import type { MeshStatus } from "./ready.js";
import { retold } from "./retold.js";
import { chatCall, generateCall } from "./sampling.js";
import type { ChatMessage } from "./sampling.js";
import { Stream } from "./stream.js";
import { embedBodies } from "./texts.js";

/** Requests that one `embed` keeps under way: enough for several workers, and room for other calls of the client. */
const EMBED_CONCURRENCY = 16;

const STATUS_TIMEOUT_MS = 5000;
const STATUS_FIELDS: ReadonlySet<string> = new Set(["timeoutMs", "signal"]);
const READY_FIELDS: ReadonlySet<string> = new Set(["ops", "timeoutMs", "signal"]);
const CLOSE_FIELDS: ReadonlySet<string> = new Set(["drainMs"]);

/**
 * A connection to the mesh, made by `connect`, to be shared by all of a process.
 *
 * Every call takes `timeoutMs`, `lane`, `model`, `atMostOnce`, `waitForReady` and `signal`, and ends with a
 * {@link MeshError} when there is no result. What cannot be sent is refused at the call: by a rejected promise, or by
 * an exception where no promise is returned.
 */
export class Mesh implements AsyncDisposable {
  private closing: Promise<void> | undefined;

  /** @internal */
  constructor(
    private readonly link: Link,
    private readonly hub: EventHub,
  ) {}

  /**
   * Return the result of an op on a payload.
   *
   * Payloads are made of what {@link packBody} takes: null, booleans, numbers, bigints, strings, `Uint8Array`, arrays,
   * plain objects, {@link Tensor}s and typed arrays.
   */
  async call(op: string, payload: unknown, options: RequestOptions = {}): Promise<unknown> {
    checkFields(options, REQUEST_FIELDS);
    const call = requestOf(checkOp(op), packBody(payload), options);
    try {
      return unpackBody(await this.request(call, options.signal));
    } catch (error) {
      throw retold(error);
    }
  }

  /** @internal Return the result of a request of a pool, which is told what its FINAL says of its time. */
  async timed(call: Call, signal: AbortSignal, told: (final: Final) => void): Promise<unknown> {
    return unpackBody(await this.request(call, signal, told));
  }

  /** Return one vector for each text. Long lists go as several requests that run side by side. */
  async embed(texts: string | Iterable<string>, options: EmbedOptions = {}): Promise<Embeddings> {
    checkFields(options, EMBED_FIELDS);
    const calls = embedBodies(texts, options.normalize).map((body) => requestOf("embed", body, options));
    try {
      const [first] = calls;
      if (first !== undefined && calls.length === 1) {
        return new Embeddings([unpackBody(await this.request(first, options.signal))]);
      }
      return new Embeddings(await this.side(calls, options.signal));
    } catch (error) {
      throw retold(error);
    }
  }

  /** Return the chunks of an op as they come; leaving them early cancels the call. */
  stream(op: string, payload: unknown, options: StreamOptions = {}): Stream {
    this.checkOpen();
    checkFields(options, STREAM_FIELDS);
    const call = requestOf(checkOp(op), packBody(payload), options, checkWindow(options.window));
    return this.streamOf(call, options.signal);
  }

  /** Return the text that continues a prompt (a text, or token ids), as it comes. */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): Generation {
    this.checkOpen();
    return new Generation(this.streamOf(generateCall(prompt, options), options.signal));
  }

  /** Return the answer to a conversation, as it comes. */
  chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Generation {
    this.checkOpen();
    return new Generation(this.streamOf(chatCall(messages, options), options.signal));
  }

  /** Return the state of the mesh: epoch, workers, queues, limits. */
  async status(options: StatusOptions = {}): Promise<MeshStatus> {
    checkFields(options, STATUS_FIELDS);
    const call = requestOf(STATUS_OP, [], { timeoutMs: options.timeoutMs ?? STATUS_TIMEOUT_MS });
    try {
      return statusOf(unpackBody(await this.request(call, options.signal)));
    } catch (error) {
      throw retold(error);
    }
  }

  /**
   * Return once each op has a warm worker.
   *
   * @throws {@link NoWorkerError} naming the ops that still lack one.
   * @throws {@link DeadlineExceededError} no broker answered.
   */
  async ready(options: ReadyOptions): Promise<void> {
    checkFields(options, READY_FIELDS);
    try {
      await waitReady(options, (asked) => this.status(asked));
    } catch (error) {
      throw retold(error);
    }
  }

  /** Return what happens to the connection, beginning with how it stands. */
  events(): AsyncIterableIterator<MeshEvent, undefined> {
    const { welcomed, epoch } = this.link.session;
    return this.hub.watch(welcomed ? { type: "connected", epoch } : undefined);
  }

  /**
   * Take no more calls, wait for those under way, end what is left with a {@link CancelledError}, and let go of the
   * connection. Nothing of the client keeps the process alive after that.
   */
  async close(options: CloseOptions = {}): Promise<void> {
    checkFields(options, CLOSE_FIELDS);
    const drainMs = checkTimeout(options.drainMs ?? 0, "drainMs", 0);
    this.closing ??= this.leave(drainMs);
    await this.closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private async leave(drainMs: number): Promise<void> {
    this.link.refuse();
    await this.link.idle(drainMs);
    this.link.close();
    this.hub.emit({ type: "closed" });
  }

  private checkOpen(): void {
    this.link.checkOpen();
  }

  private streamOf(call: Call, signal: AbortSignal | undefined): Stream {
    checkNotAborted(checkSignal(signal));
    return new Stream(this.link, call, signal);
  }

  private request(
    call: Call,
    signal: AbortSignal | undefined,
    told?: (final: Final) => void,
  ): Promise<readonly Uint8Array[]> {
    checkNotAborted(checkSignal(signal));
    return new Promise((resolve, reject) => {
      let forget: (() => void) | undefined;
      const pending = this.link.begin(call, (outcome, frames) => {
        forget?.();
        if (outcome instanceof MeshError) {
          reject(outcome);
        } else {
          told?.(outcome);
          resolve(frames);
        }
      });
      if (signal !== undefined && !pending.ended) {
        forget = onAbort(signal, () => {
          forget?.();
          const error = abortedError(signal);
          this.link.cancel(pending, error);
          reject(error);
        });
      }
    });
  }

  /** Return the results of calls that run side by side, within the time of one; if one fails, the others end. */
  private async side(calls: readonly Call[], signal: AbortSignal | undefined): Promise<unknown[]> {
    checkNotAborted(checkSignal(signal));
    const results: unknown[] = new Array(calls.length);
    const until = performance.now() + (calls[0]?.timeoutMs ?? 0);
    const ender = new AbortController();
    const forget =
      signal &&
      onAbort(signal, () => {
        ender.abort(signal.reason);
      });
    const rest = calls.entries();
    const runner = async (): Promise<void> => {
      for (const [index, call] of rest) {
        const timeoutMs = Math.max(1, until - performance.now());
        results[index] = unpackBody(await this.request({ ...call, timeoutMs }, ender.signal));
      }
    };
    try {
      await Promise.all(Array.from({ length: Math.min(EMBED_CONCURRENCY, calls.length) }, runner));
      return results;
    } finally {
      forget?.();
      ender.abort();
    }
  }
}
