/** A bare ROUTER in a broker's place: it keeps what clients send, greets as a broker, and answers as it is told to. */

import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import * as zeromq from "zeromq";

import { packBody } from "../../src/wire/body.js";
import { opened } from "../../src/wire/bundle.js";
import { decodeHeader, encodeHeader } from "../../src/wire/header.js";
import type { Message, Request } from "../../src/wire/messages.js";

/** Says the frames of an answer to a REQUEST; undefined for none. */
export type Answer = (request: Request, body: readonly Uint8Array[]) => readonly Uint8Array[] | undefined;

export class Impostor implements AsyncDisposable {
  readonly endpoint: string;
  /** All that came, bundles opened, but for HELLO, PING and BYE, which clients send by themselves. */
  readonly heard: Message[] = [];
  /** How many connections were greeted on. */
  greetings = 0;
  private readonly path = join(tmpdir(), `mesh-${randomUUID().slice(0, 8)}.sock`);
  private readonly router = new zeromq.Router({ linger: 0, sendHighWaterMark: 0 });
  private loop: Promise<void> | undefined;

  private constructor(private readonly answer: Answer) {
    this.endpoint = `ipc://${this.path}`;
  }

  static async start(answer: Answer = echoed): Promise<Impostor> {
    const impostor = new Impostor(answer);
    await impostor.router.bind(impostor.endpoint);
    impostor.loop = impostor.run();
    return impostor;
  }

  /** The requests that came, in order. */
  get requests(): Request[] {
    return this.heard.filter((message) => message.type === "Request");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.router.close();
    await this.loop;
    rmSync(this.path, { force: true });
  }

  private async run(): Promise<void> {
    for await (const [peer, ...frames] of this.router) {
      await this.take(peer ?? Buffer.alloc(0), frames);
    }
  }

  private async take(peer: Buffer, [header, ...rest]: readonly Uint8Array[]): Promise<void> {
    const message = header && decodeHeader(header);
    if (message === undefined) {
      return;
    }
    switch (message.type) {
      case "Bundle":
        for (const inside of opened(message, rest)) {
          await this.take(peer, inside);
        }
        return;
      case "Hello":
        this.greetings += 1;
        await this.send(peer, [encodeHeader(WELCOME)]);
        return;
      case "Ping":
        await this.send(peer, [encodeHeader({ type: "Pong", nonce: message.nonce })]);
        return;
      case "Bye":
        return;
      case "Request": {
        this.heard.push(message);
        const told = this.answer(message, rest);
        if (told !== undefined) {
          await this.send(peer, told);
        }
        return;
      }
      default:
        this.heard.push(message);
    }
  }

  private async send(peer: Buffer, frames: readonly Uint8Array[]): Promise<void> {
    await this.router.send([peer, ...frames] as Buffer[]);
  }
}

const WELCOME: Message = { type: "Welcome", major: 1, minor: 0, epoch: "impostor", limits: {}, intervals: {} };

/** Return the FINAL of a request, with a body. */
export function final(id: number, body: readonly Uint8Array[]): Uint8Array[] {
  const header: Message = { type: "Final", id, attempts: 1, queueUs: 0, serviceUs: 0, flags: 0, chunks: 0 };
  return [encodeHeader(header), ...body];
}

/** Give back what came. */
export function echoed(request: Request, body: readonly Uint8Array[]): readonly Uint8Array[] {
  return final(request.requestId, body);
}

/** Answer with a value. */
export function said(id: number, value: unknown): readonly Uint8Array[] {
  return final(id, packBody(value));
}
