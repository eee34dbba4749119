/** From what a connection brought to the messages in it. */

import { DecodeError } from "../errors.js";
import { opened } from "../wire/bundle.js";
import { decodeHeader } from "../wire/header.js";
import { FRAMES_MAX, MESSAGE_MAX_BYTES } from "../wire/limits.js";
import type { Message } from "../wire/messages.js";

/** Takes a message and the frames behind its header. */
export type Take = (message: Message, frames: readonly Uint8Array[]) => void;

/**
 * Give each message in a ZeroMQ message to `take`; those of a type that is not known are left out.
 *
 * @throws {@link DecodeError} it is none, or over the limits, which ZeroMQ itself holds only frame by frame. What
 * stood before it in a bundle was given.
 */
export function deliver(frames: readonly Uint8Array[], take: Take): void {
  if (frames.length > FRAMES_MAX) {
    throw new DecodeError(`a message has ${frames.length} frames, allowed are ${FRAMES_MAX}`);
  }
  const size = sizeOf(frames);
  if (size > MESSAGE_MAX_BYTES) {
    throw new DecodeError(`a message has ${size} bytes, allowed are ${MESSAGE_MAX_BYTES}`);
  }
  open(frames, take, true);
}

function open([header, ...rest]: readonly Uint8Array[], take: Take, outermost: boolean): void {
  if (header === undefined) {
    throw new DecodeError("a message has no frames");
  }
  const message = decodeHeader(header);
  if (message?.type === "Bundle") {
    if (!outermost) {
      throw new DecodeError("a BUNDLE is inside another");
    }
    for (const frames of opened(message, rest)) {
      open(frames, take, false);
    }
  } else if (message !== undefined) {
    take(message, rest);
  }
}

/** Return the size of frames in bytes. */
export function sizeOf(frames: readonly Uint8Array[]): number {
  let size = 0;
  for (const frame of frames) {
    size += frame.byteLength;
  }
  return size;
}
