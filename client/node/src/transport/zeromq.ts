/** One DEALER: one reader loop, and messages handed over one at a time. */

import type { Dealer } from "zeromq";

import { IPC } from "../endpoint.js";
import { DecodeError } from "../errors.js";
import type { Keys } from "../keys.js";
import { MESSAGE_MAX_BYTES, WRAPPED_MAX_BYTES } from "../wire/limits.js";
import { unwrap, wrap } from "../wire/wrapping.js";
import { HandshakeWatch } from "./handshake.js";
import type { Zeromq } from "./load.js";
import type { Fault, Handlers, Transport } from "./transport.js";

/** The first pause before a broken connection is made anew; it doubles with each attempt. */
export const RECONNECT_MS = 50;
export const RECONNECT_MAX_MS = 1000;

/** A handshake takes two round trips; one that takes this long has met no broker. */
export const HANDSHAKE_MS = 5000;

/**
 * Messages that may wait to leave. What a client has outstanding is far less: with so many its broker reads nothing,
 * or nobody is there, and a new connection begins with only those that still matter.
 */
export const OUTBOX_MAX = 1024;

/** What was given with a connection. */
export interface Address {
  readonly endpoint: string;
  readonly keys: Keys | undefined;
  /** A broker has answered there before. */
  readonly known: boolean;
}

/** A connection by libzmq, which does its work in a thread of its own. */
export class ZeromqTransport implements Transport {
  private readonly socket: Dealer;
  private handlers: Handlers | undefined;
  /** With keys, a message is one frame. */
  private readonly wrapped: boolean;

  constructor(zeromq: Zeromq, address: Address, handlers: Handlers) {
    this.handlers = handlers;
    this.wrapped = address.keys !== undefined;
    this.socket = makeDealer(zeromq, address);
    if (!address.endpoint.startsWith(IPC)) {
      // Before it connects: nothing that happens is to be missed.
      void this.watch(new HandshakeWatch(address.endpoint, address.keys, address.known));
    }
    this.socket.connect(address.endpoint);
    void this.receive();
  }

  send(frames: readonly Uint8Array[]): void {
    if (this.handlers !== undefined) {
      // A send without a timeout is over when it returns, so that there are never two at once.
      this.socket.send(this.wrapped ? wrap(frames) : (frames as Uint8Array[])).catch(this.refused);
    }
  }

  close(lingerMs: number): void {
    if (this.handlers !== undefined) {
      this.handlers = undefined;
      this.socket.linger = lingerMs;
      this.socket.close();
    }
  }

  /** It is full, or libzmq has given it up. */
  private readonly refused = (): void => {
    this.fail({ told: undefined });
  };

  private fail(fault: Fault): void {
    this.handlers?.onFault(fault);
  }

  private async receive(): Promise<void> {
    const { socket } = this;
    try {
      while (this.handlers !== undefined) {
        this.handlers.onMessage(this.opened(await socket.receive()));
      }
    } catch {
      // It was closed, or what it belongs to; or what came is no message.
      this.refused();
    }
  }

  private opened(frames: Uint8Array[]): Uint8Array[] {
    const [whole] = frames;
    if (!this.wrapped || whole === undefined) {
      return frames;
    }
    if (frames.length > 1) {
      throw new DecodeError("on a connection with keys a message is one frame");
    }
    return unwrap(whole);
  }

  private async watch(handshakes: HandshakeWatch): Promise<void> {
    const { events } = this.socket;
    try {
      while (this.handlers !== undefined && !events.closed) {
        const { type } = await events.receive();
        const fault = handshakes.take(performance.now(), type);
        if (fault !== undefined) {
          this.fail(fault);
        }
      }
    } catch {
      // It ends with its socket.
    }
  }
}

function makeDealer(zeromq: Zeromq, { endpoint, keys }: Address): Dealer {
  const socket = new zeromq.Dealer({
    linger: 0,
    sendTimeout: 0,
    receiveTimeout: -1,
    sendHighWaterMark: OUTBOX_MAX,
    // What comes is bounded by what was asked for; where it stopped here the broker would have to keep it.
    receiveHighWaterMark: 0,
    maxMessageSize: keys === undefined ? MESSAGE_MAX_BYTES : WRAPPED_MAX_BYTES,
    reconnectInterval: RECONNECT_MS,
    reconnectMaxInterval: RECONNECT_MAX_MS,
    handshakeInterval: HANDSHAKE_MS,
    connectTimeout: HANDSHAKE_MS,
    tcpKeepalive: 1,
    ipv6: endpoint.includes("["),
  });
  if (keys !== undefined) {
    socket.curveServerKey = keys.server;
    socket.curvePublicKey = keys.public;
    socket.curveSecretKey = keys.secret;
  }
  return socket;
}
