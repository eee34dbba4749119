/**
 * The error table: one stable code, one class and one default for `retryable` per meaning.
 *
 * The same classes exist in every client language; `protocol/SPEC.md` section 6 says what each code means.
 */

/** Machine-readable facts about an error, such as `{ field: "texts", index: 3 }`. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

/** What may be said about an error beside its message. */
export interface ErrorOptions {
  /** Whether sending the same request again may help; the default is that of the class. */
  readonly retryable?: boolean;
  /** How long to wait before that, in milliseconds; 0 if unknown. */
  readonly retryAfterMs?: number;
  readonly details?: ErrorDetails;
  readonly cause?: unknown;
}

/** The root of everything that mlx-mesh throws on purpose. `message` is for people, the rest for programs. */
export class MeshError extends Error {
  /** Stable, upper-case name of the meaning, as `"OVERLOADED"`. */
  readonly code: ErrorCode = "INTERNAL";
  /** Whether sending the same request again may help. */
  readonly retryable: boolean;
  /** How long to wait before that, in milliseconds; 0 if unknown. */
  readonly retryAfterMs: number;
  /** Machine-readable facts such as `{ field: "texts", index: 3 }`. */
  readonly details: ErrorDetails;

  constructor(message: string, options: ErrorOptions = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.name = new.target.name;
    this.retryable = options.retryable ?? false;
    this.retryAfterMs = options.retryAfterMs ?? 0;
    this.details = options.details ?? {};
  }
}

/** The request is malformed; `details` names the field and, for lists, the index of the item. */
export class InvalidRequestError extends MeshError {
  override readonly code = "INVALID_REQUEST";
}

/** The worker that got the job does not serve this op. */
export class UnknownOpError extends MeshError {
  override readonly code = "UNKNOWN_OP";
}

/** Workers for the op exist, but none of them serves this model. */
export class UnknownModelError extends MeshError {
  override readonly code = "UNKNOWN_MODEL";
}

/** No worker for the op is connected, loading or expected back. */
export class NoWorkerError extends MeshError {
  override readonly code = "NO_WORKER";
}

/** A queue or a client's share of it is full; try again after `retryAfterMs`. */
export class OverloadedError extends MeshError {
  override readonly code = "OVERLOADED";

  constructor(message: string, options: ErrorOptions = {}) {
    super(message, { retryable: true, ...options });
  }
}

/** The deadline passed before there was an answer. */
export class DeadlineExceededError extends MeshError {
  override readonly code = "DEADLINE_EXCEEDED";
}

/** The caller, or an operator, cancelled the request. */
export class CancelledError extends MeshError {
  override readonly code = "CANCELLED";
}

/** The worker died and the request must not, or could not, be run again. */
export class WorkerLostError extends MeshError {
  override readonly code = "WORKER_LOST";
}

/** The request was being computed by two workers when they died; it will not get a third. */
export class PoisonRequestError extends MeshError {
  override readonly code = "POISON_REQUEST";
}

/** The model server has no memory for this request; `details` has the figures. */
export class MeshOutOfMemoryError extends MeshError {
  override readonly code = "OUT_OF_MEMORY";

  constructor(message: string, options: ErrorOptions = {}) {
    super(message, { retryable: true, ...options });
  }
}

/** The reader of a stream granted no credit for too long, or let its replies pile up. */
export class SlowConsumerError extends MeshError {
  override readonly code = "SLOW_CONSUMER";
}

/** A frame, message or item is over its limit; `details` has the limit. */
export class TooLargeError extends MeshError {
  override readonly code = "TOO_LARGE";
}

/** The peer's key does not allow this. */
export class UnauthorizedError extends MeshError {
  override readonly code = "UNAUTHORIZED";
}

/** The engine raised an exception while it computed the request. */
export class EngineError extends MeshError {
  override readonly code = "ENGINE_ERROR";
}

/** The peer broke the protocol, or speaks another major version of it. */
export class ProtocolError extends MeshError {
  override readonly code = "PROTOCOL_ERROR";
}

/** A defect in mlx-mesh itself. */
export class InternalError extends MeshError {
  override readonly code = "INTERNAL";
}

/** Bytes that are not a valid header or body: all that decoding throws. */
export class DecodeError extends ProtocolError {}

/** Each code and its class. A code that is not in here is read as {@link InternalError}. */
export const ERROR_CLASSES = {
  INVALID_REQUEST: InvalidRequestError,
  UNKNOWN_OP: UnknownOpError,
  UNKNOWN_MODEL: UnknownModelError,
  NO_WORKER: NoWorkerError,
  OVERLOADED: OverloadedError,
  DEADLINE_EXCEEDED: DeadlineExceededError,
  CANCELLED: CancelledError,
  WORKER_LOST: WorkerLostError,
  POISON_REQUEST: PoisonRequestError,
  OUT_OF_MEMORY: MeshOutOfMemoryError,
  SLOW_CONSUMER: SlowConsumerError,
  TOO_LARGE: TooLargeError,
  UNAUTHORIZED: UnauthorizedError,
  ENGINE_ERROR: EngineError,
  PROTOCOL_ERROR: ProtocolError,
  INTERNAL: InternalError,
} as const;

/** The stable names of all meanings. */
export type ErrorCode = keyof typeof ERROR_CLASSES;

/** Whether this version knows a code. */
export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERROR_CLASSES, code);
}

/** Return the error for an ERROR message; a code that is not known keeps its name in the message. */
export function errorFromWire(
  code: string,
  message: string,
  retryable: boolean,
  retryAfterMs: number,
  details: ErrorDetails = {},
): MeshError {
  const options = { retryable, retryAfterMs, details };
  if (!isErrorCode(code)) {
    return new InternalError(`(unknown code ${code}) ${message}`, options);
  }
  return new ERROR_CLASSES[code](message, options);
}
