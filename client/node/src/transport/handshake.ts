/** Why a TCP connection is not made, of which libzmq tells the user of a socket nothing by itself. */

import type { Keys } from "../keys.js";
import type { Fault } from "./transport.js";

/**
 * How long connections may end in the middle of their handshakes before that is told. One that was made for another
 * broker's key ends like this, but so does one to a broker that is just being started.
 */
export const HANDSHAKES_FAIL_MS = 2000;

/**
 * How many have to end like this by then. Of one that the network broke at once, and one late, there are two; a broker
 * that is held up ends one in 2 s. One with other keys ends six in that time, however the pauses between them grow.
 */
export const HANDSHAKES_FAIL_MIN = 5;

/** Learns from the events of a socket why it does not connect. */
export class HandshakeWatch {
  private failures = 0;
  private failingSince = 0;

  /**
   * @param succeeded - a broker has answered there. A connection that is not made then is a fault of the network, or a
   * broker that is away behind a proxy which is not, and no mistake of whoever set them up; only a refusal is told.
   */
  constructor(
    private readonly endpoint: string,
    private readonly keys: Keys | undefined,
    private succeeded: boolean,
  ) {}

  /** Take an event, by its name in `zeromq`; return the fault that it makes certain. */
  take(now: number, type: string): Fault | undefined {
    switch (type) {
      case "handshake":
        this.succeeded = true;
        return undefined;
      case "handshake:error:auth":
        return { told: this.refused() };
      case "handshake:error:protocol":
        return { told: this.succeeded ? undefined : this.mismatch("it speaks otherwise than this program") };
      case "handshake:error:other":
        return this.failed(now);
      default:
        return undefined;
    }
  }

  private failed(now: number): Fault | undefined {
    if (this.succeeded) {
      return undefined; // A broker that comes back; it may stand behind a proxy that is there already.
    }
    if (this.failures === 0) {
      this.failingSince = now;
    }
    this.failures += 1;
    if (this.failures < HANDSHAKES_FAIL_MIN || now - this.failingSince < HANDSHAKES_FAIL_MS) {
      return undefined;
    }
    this.failures = 0;
    return { told: this.mismatch("connections to it end before they are made, again and again") };
  }

  private refused(): string {
    const whose = this.keys === undefined ? "a peer without a key" : `the key of client '${this.keys.name}'`;
    return (
      `the broker at ${this.endpoint} refuses ${whose}: it was revoked, or is not for this endpoint; see ` +
      "`mlx-mesh keys list` where the broker runs, and its log"
    );
  }

  private mismatch(what: string): string {
    const why =
      this.keys === undefined
        ? "it may serve only peers with keys; give some by the option `keys` or MLX_MESH_KEYS"
        : "it may be an endpoint without keys, or of a broker that these keys were not made for";
    return `no connection to ${this.endpoint}: ${what}; ${why}`;
  }
}
