/** A client on a connection that only keeps what is sent, and says what a test has it say. */

import { EventHub } from "../../src/client/events.js";
import { Link } from "../../src/client/link.js";
import { Mesh } from "../../src/client/mesh.js";
import type { Handlers, Transport } from "../../src/transport/transport.js";
import type { Mail } from "../../src/wire/bundle.js";
import { opened } from "../../src/wire/bundle.js";
import { decodeHeader, encodeHeader } from "../../src/wire/header.js";
import type { Message } from "../../src/wire/messages.js";

export class FakeTransport implements Transport {
  readonly sent: Mail[] = [];
  isClosed = false;
  /** ZeroMQ messages that were sent: a bundle counts once. */
  messages = 0;

  constructor(readonly handlers: Handlers) {}

  send(frames: readonly Uint8Array[]): void {
    this.messages += 1;
    this.open(frames);
  }

  close(): void {
    this.isClosed = true;
  }

  /** Have a message come. */
  tell(message: Message, frames: readonly Uint8Array[] = []): void {
    this.handlers.onMessage([encodeHeader(message), ...frames]);
  }

  /** Greet as a broker does. */
  welcome(epoch = "e1"): void {
    this.tell({ type: "Welcome", major: 1, minor: 0, epoch, limits: {}, intervals: {} });
  }

  /** The ids of the requests that were sent. */
  requests(): number[] {
    return this.sent.flatMap(({ message }) => (message.type === "Request" ? [message.requestId] : []));
  }

  types(): string[] {
    return this.sent.map(({ message }) => message.type);
  }

  private open(frames: readonly Uint8Array[]): void {
    const [header, ...rest] = frames;
    const message = header && decodeHeader(header);
    if (message?.type === "Bundle") {
      for (const inside of opened(message, rest)) {
        this.open(inside);
      }
    } else if (message !== undefined) {
      this.sent.push({ message, frames: rest });
    }
  }
}

export class FakeMesh {
  readonly transports: FakeTransport[] = [];
  readonly mesh: Mesh;

  constructor() {
    const hub = new EventHub();
    const link = new Link({
      key: new Uint8Array(16),
      name: "test",
      endpoint: "ipc://nowhere",
      random: () => 0.5,
      dial: (handlers) => {
        const transport = new FakeTransport(handlers);
        this.transports.push(transport);
        return transport;
      },
      onEvent: (event) => {
        hub.emit(event);
      },
    });
    this.mesh = new Mesh(link, hub);
  }

  /** The connection of now. */
  get transport(): FakeTransport {
    const last = this.transports.at(-1);
    if (last === undefined) {
      throw new Error("there is no connection");
    }
    return last;
  }
}

/** Return once what was scheduled for this turn is done. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
