/**
 * A whole message in one ZeroMQ frame, as it travels on connections with keys: CURVE seals each frame by itself, and
 * somebody on the way could take frames out of messages and join messages to each other, unnoticed.
 */

import { DecodeError } from "../errors.js";
import { FRAMES_MAX } from "./limits.js";

const SIZE_BYTES = 4;

/** Return one frame that holds the 1 to `FRAMES_MAX` frames of a message. */
export function wrap(frames: readonly Uint8Array[]): Uint8Array {
  const head = Buffer.allocUnsafe(1 + SIZE_BYTES * frames.length);
  let end = head.writeUInt8(frames.length);
  for (const frame of frames) {
    end = head.writeUInt32BE(frame.length, end);
  }
  return Buffer.concat([head, ...frames]);
}

/**
 * Return the frames in a frame, which are views of it.
 *
 * @throws {@link DecodeError} if their number is not allowed, or their sizes do not fit.
 */
export function unwrap(whole: Uint8Array): Uint8Array[] {
  const count = whole[0] ?? 0;
  if (count === 0 || count > FRAMES_MAX) {
    throw new DecodeError(`a wrapped message has 1 to ${FRAMES_MAX} frames, this one ${count}`);
  }
  const head = 1 + SIZE_BYTES * count;
  if (whole.length < head) {
    throw new DecodeError(`a wrapped message of ${count} frames begins with ${head} bytes, there are ${whole.length}`);
  }
  const view = new DataView(whole.buffer, whole.byteOffset, whole.byteLength);
  const sizes = Array.from({ length: count }, (_, at) => view.getUint32(1 + SIZE_BYTES * at));
  const total = sizes.reduce((sum, size) => sum + size, head);
  if (total !== whole.length) {
    throw new DecodeError(`a wrapped message has ${total} bytes by its sizes, there are ${whole.length}`);
  }
  let start = head;
  return sizes.map((size) => whole.subarray(start, (start += size)));
}
