/**
 * Several small messages as one ZeroMQ message, since each frame costs some time at either end, whatever its size.
 * Nothing waits for a bundle to fill: it holds what happens to be there when its sender has done its round.
 */

import { Buffer } from "node:buffer";

import { DecodeError } from "../errors.js";
import { encodeHeader } from "./header.js";
import { BUNDLE_MAX_MESSAGES, BUNDLED_MAX_BYTES } from "./limits.js";
import type { Bundle, Message, MessageType } from "./messages.js";

/** A message and the frames behind its header. */
export interface Mail {
  readonly message: Message;
  readonly frames: readonly Uint8Array[];
}

/** What comes in numbers. Greetings go alone, so that a peer of another version can read them. */
const BUNDLED: ReadonlySet<MessageType> = new Set<MessageType>([
  "Request",
  "Job",
  "Chunk",
  "Final",
  "Error",
  "Cancel",
  "Credit",
  "Return",
]);

const NONE = new Uint8Array(0);

/** Yield the ZeroMQ messages, each a list of frames, that carry the mail in its order. */
export function* bundles(mail: readonly Mail[]): Generator<Uint8Array[], void> {
  let parts: Uint8Array[] = [];
  for (const { message, frames } of mail) {
    const header = encodeHeader(message);
    const fits = isSmall(message, frames);
    if (fits) {
      parts.push(header, frames[0] ?? NONE);
    }
    if (parts.length && (!fits || parts.length === 2 * BUNDLE_MAX_MESSAGES)) {
      yield sealed(parts);
      parts = [];
    }
    if (!fits) {
      yield [header, ...frames];
    }
  }
  if (parts.length) {
    yield sealed(parts);
  }
}

function isSmall(message: Message, frames: readonly Uint8Array[]): boolean {
  if (frames.length > 1 || !BUNDLED.has(message.type)) {
    return false;
  }
  const [body] = frames;
  return body === undefined || (body.length > 0 && body.length <= BUNDLED_MAX_BYTES);
}

function sealed(parts: Uint8Array[]): Uint8Array[] {
  if (parts.length === 2) {
    return parts[1]?.length ? parts : parts.slice(0, 1);
  }
  const sizes = parts.map((part) => part.length);
  return [encodeHeader({ type: "Bundle", sizes }), Buffer.concat(parts)];
}

/**
 * Return the messages in a bundle, each as its header and, if it has one, its body; views of the one frame.
 *
 * @param frames - those behind the header of the bundle.
 * @throws {@link DecodeError} if the sizes are not those of the one frame.
 */
export function opened(bundle: Bundle, frames: readonly Uint8Array[]): Uint8Array[][] {
  const { sizes } = bundle;
  const [payload] = frames;
  if (payload === undefined || frames.length !== 1 || sizes.length % 2) {
    throw new DecodeError("a BUNDLE has one frame behind its header, and its sizes come in pairs");
  }
  const total = sizes.reduce((sum, size) => sum + size, 0);
  if (total !== payload.length) {
    throw new DecodeError(`Bundle.sizes say ${total} bytes, there are ${payload.length}`);
  }
  const found: Uint8Array[][] = [];
  let start = 0;
  for (let i = 0; i < sizes.length; i += 2) {
    const body = start + (sizes[i] ?? 0);
    const end = body + (sizes[i + 1] ?? 0);
    found.push(
      end > body ? [payload.subarray(start, body), payload.subarray(body, end)] : [payload.subarray(start, body)],
    );
    start = end;
  }
  return found;
}
