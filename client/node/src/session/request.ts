/** The REQUEST for a call, as it stands at some moment. */

import type { Mail } from "../wire/bundle.js";
import { Flag } from "../wire/messages.js";
import type { Pending } from "./pending.js";

/** Return what is to be sent, and count it as sent: the credit of its window replaces what was granted before. */
export function requestMail(now: number, pending: Pending): Mail {
  const { call } = pending;
  const state = pending.nextSeq > 0 ? pending.received?.state() : undefined;
  const flags = call.flags | (pending.sent ? Flag.RESEND : 0) | (state === undefined ? 0 : Flag.RESUMED);
  pending.sent = pending.onWire = true;
  return {
    message: {
      type: "Request",
      requestId: pending.id,
      op: call.op,
      model: call.model,
      lane: call.lane,
      remainingMs: Math.max(1, Math.trunc(pending.due - now)),
      flags,
      window: call.window > 0 ? pending.room() : 0,
      affinity: call.affinity,
      traceparent: call.traceparent,
      seen: pending.nextSeq,
    },
    frames: state === undefined ? call.frames : [...call.frames, state],
  };
}
