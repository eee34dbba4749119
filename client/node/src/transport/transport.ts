/** What a client needs of a connection, whatever makes it. */

/** Why a connection is not made, or cannot go on. */
export interface Fault {
  /** For people, and to be told to all callers; undefined if it is only to be made anew. */
  readonly told: string | undefined;
}

/** Told of what comes. Neither may throw. */
export interface Handlers {
  /** A whole message came: its frames, which are the receiver's own from now on. */
  readonly onMessage: (frames: Uint8Array[]) => void;
  /** Nothing more comes of this connection; it is to be closed. */
  readonly onFault: (fault: Fault) => void;
}

/** One connection, which keeps trying until it is made. */
export interface Transport {
  /** Hand over a message. What is too much for the connection is not sent, and told as a fault. */
  send(frames: readonly Uint8Array[]): void;
  /** Close it; what was sent last is given so many milliseconds to leave. Nothing is told any more. */
  close(lingerMs: number): void;
}

/** Makes a connection; `known` if a broker has answered there before. */
export type Dial = (handlers: Handlers, known: boolean) => Transport;
