/** What `embed` returns. */

import { ProtocolError } from "../errors.js";
import { Tensor } from "../wire/body.js";

interface Part {
  readonly values: Float32Array;
  readonly count: number;
  readonly dimension: number;
  readonly tokens: readonly number[];
  readonly truncated: readonly number[];
  readonly model: string;
}

/** Vectors, one for each text, in order: views of what was received, without a copy. */
export class Embeddings implements Iterable<Float32Array> {
  /** One vector for each text. */
  readonly rows: readonly Float32Array[];
  /** Floats per vector. */
  readonly dimension: number;
  /** Tokens that each text took. */
  readonly tokens: readonly number[];
  /** Indices of the texts that were cut to the model's length. */
  readonly truncated: readonly number[];
  /** Name of the model. */
  readonly model: string;

  /**
   * @internal
   * @throws {@link ProtocolError} a part is no result of `embed`; an engine of another kind serves that op.
   */
  constructor(results: readonly unknown[]) {
    const rows: Float32Array[] = [];
    const tokens: number[] = [];
    const truncated: number[] = [];
    let dimension = 0;
    let model = "";
    for (const result of results) {
      const part = partOf(result, dimension);
      truncated.push(...part.truncated.map((index) => rows.length + index));
      for (let row = 0; row < part.count; row++) {
        rows.push(part.values.subarray(row * part.dimension, (row + 1) * part.dimension));
      }
      tokens.push(...part.tokens);
      ({ dimension } = part);
      model ||= part.model;
    }
    this.rows = rows;
    this.dimension = dimension;
    this.tokens = tokens;
    this.truncated = truncated;
    this.model = model;
  }

  /** How many there are. */
  get length(): number {
    return this.rows.length;
  }

  /** The vector of a text; negative indices count from the end. */
  at(index: number): Float32Array | undefined {
    return this.rows.at(index);
  }

  [Symbol.iterator](): IterableIterator<Float32Array> {
    return this.rows[Symbol.iterator]();
  }

  /** The vectors as plain arrays, for JSON. */
  toJSON(): number[][] {
    return this.rows.map((row) => Array.from(row));
  }
}

/** Return a checked result; its vectors are as long as those before, if there are any. */
function partOf(result: unknown, before: number): Part {
  if (typeof result !== "object" || result === null || Array.isArray(result)) {
    return refuse("is no map");
  }
  const { vectors, tokens = [], truncated = [], model = "" } = result as Readonly<Record<string, unknown>>;
  if (!(vectors instanceof Tensor) || vectors.dtype !== "float32" || vectors.shape.length !== 2) {
    return refuse("has no matrix of float32 as vectors");
  }
  const [count = 0, dimension = 0] = vectors.shape;
  if (dimension === 0 || (before > 0 && dimension !== before)) {
    return refuse(
      before > 0 ? `has vectors of dimension ${dimension}, those before have ${before}` : "has empty vectors",
    );
  }
  if (!isCounts(tokens) || !isCounts(truncated)) {
    return refuse("has tokens or truncated that are no list of integers");
  }
  if (typeof model !== "string") {
    return refuse("has a model that is no string");
  }
  return { values: vectors.toFloat32(), count, dimension, tokens, truncated, model };
}

function isCounts(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((each) => Number.isInteger(each));
}

function refuse(what: string): never {
  throw new ProtocolError(`the result of embed ${what}; does a worker serve embed with an engine of another kind?`);
}
