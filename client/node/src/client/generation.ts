/** Text as it comes. */

import { retold } from "./retold.js";
import { resultOf, textChunk } from "./sampling.js";
import type { GenerateResult, TextChunk } from "./sampling.js";
import type { Stream } from "./stream.js";

/**
 * Text as it comes, to be iterated over once, or had as a whole by {@link Generation.text}; nothing is sent before.
 *
 * Leaving the loop early, by `break` or by an error, cancels the request.
 */
export class Generation implements AsyncIterableIterator<TextChunk, undefined>, AsyncDisposable {
  private tokens = 0;
  private restTold = false;
  private ending: Promise<GenerateResult> | undefined;

  /** @internal */
  constructor(private readonly stream: Stream) {}

  /**
   * How it ended; `cancelled` if the reader left early. Rejected if the request fails.
   *
   * If nobody has begun to read the text in this turn of the event loop, it is thrown away.
   */
  get final(): Promise<GenerateResult> {
    if (this.ending === undefined) {
      this.ending = this.ended();
      this.ending.catch(() => undefined); // Whoever reads the text is told as well.
    }
    return this.ending;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stream.return();
  }

  /** The next piece. @throws {@link MeshError} the request failed. */
  async next(): Promise<IteratorResult<TextChunk, undefined>> {
    try {
      const { value, done } = await this.stream.next();
      const chunk = done ? this.rest() : textChunk(value);
      if (chunk === undefined) {
        return { value: undefined, done: true };
      }
      this.tokens += chunk.tokens.length;
      return { value: chunk, done: false };
    } catch (error) {
      await this.stream.return();
      throw retold(error);
    }
  }

  /** Cancel the request if it has not ended. */
  async return(): Promise<IteratorResult<TextChunk, undefined>> {
    await this.stream.return();
    return { value: undefined, done: true };
  }

  /** Wait for the end and return all text that has not been read yet. */
  async text(): Promise<string> {
    const pieces: string[] = [];
    try {
      for (let each = await this.next(); !each.done; each = await this.next()) {
        pieces.push(each.value.text);
      }
    } catch (error) {
      throw retold(error);
    }
    return pieces.join("");
  }

  /** What the result of a stream holds of the text, the first time, and if there is any. */
  private rest(): TextChunk | undefined {
    const { result } = this.stream;
    if (this.restTold || this.stream.left || typeof result !== "object" || result === null) {
      return undefined;
    }
    this.restTold = true;
    const chunk = textChunk(result);
    return chunk.text === "" && chunk.tokens.length === 0 ? undefined : chunk;
  }

  private async ended(): Promise<GenerateResult> {
    const { stream } = this;
    try {
      const value = await stream.final;
      return resultOf(value, stream.moved);
    } catch (error) {
      if (stream.left) {
        const usage = { completion: this.tokens, moved: stream.moved };
        return { finishReason: "cancelled", usage, timings: {}, model: "" };
      }
      throw retold(error);
    }
  }
}
