/** Texts to be embedded, as bodies of requests. */

import { InvalidRequestError } from "../errors.js";
import { packBody } from "../wire/body.js";
import { bad, checkSwitch, shown } from "./checks.js";

/** A long list of texts goes as several requests, so that all workers share it and short requests are not held up. */
export const TEXTS_PER_REQUEST = 8;

/**
 * The same for long texts, of which an encoder reads the first few hundred tokens. About 0.1 s of work on one CPU
 * core: that little is computed again when a worker dies.
 */
export const CHARS_PER_REQUEST = 1024;
const CHARS_COUNTED_PER_TEXT = 1024;

/**
 * Return the bodies of the requests that embed these texts, in order.
 *
 * @throws {@link InvalidRequestError} no texts, or one that is not a non-empty string of valid Unicode; details name
 * its index.
 */
export function embedBodies(texts: string | Iterable<string>, normalize: boolean | undefined): Uint8Array[][] {
  checkSwitch("normalize", normalize, false);
  const bodies: Uint8Array[][] = [];
  let batch: string[] = [];
  let chars = 0;
  for (const text of listOf(texts)) {
    const length = Math.min(text.length, CHARS_COUNTED_PER_TEXT);
    if (batch.length > 0 && (batch.length === TEXTS_PER_REQUEST || chars + length > CHARS_PER_REQUEST)) {
      bodies.push(packBody({ texts: batch, normalize }));
      batch = [];
      chars = 0;
    }
    batch.push(text);
    chars += length;
  }
  bodies.push(packBody({ texts: batch, normalize }));
  return bodies;
}

function listOf(texts: unknown): readonly string[] {
  if (typeof texts === "string") {
    return [checkedText(texts, 0)];
  }
  if (typeof texts !== "object" || texts === null || !(Symbol.iterator in texts) || ArrayBuffer.isView(texts)) {
    throw bad("texts", texts, "a string or a list of strings");
  }
  const every = Array.from(texts as Iterable<unknown>, checkedText);
  if (every.length === 0) {
    throw new InvalidRequestError("texts is empty; give at least one text", { details: { field: "texts" } });
  }
  return every;
}

function checkedText(text: unknown, index: number): string {
  if (typeof text === "string" && text !== "" && text.isWellFormed()) {
    return text;
  }
  let what = "has a lone surrogate, which UTF-8 cannot say";
  if (typeof text !== "string") {
    what = `is ${shown(text)}, must be a string`;
  } else if (text === "") {
    what = "is empty";
  }
  throw new InvalidRequestError(`texts[${index}] ${what}`, { details: { field: "texts", index } });
}
