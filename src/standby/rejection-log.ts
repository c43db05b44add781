/**
 * Says whose key did not match, at either end: a master that is not allowed here, or one that expects another standby.
 * Strangers can cause it at will, so each is told at most once a minute, and of so many at most.
 */
import type { Clock } from '../core/clock.js'
import type { Logger } from '../core/log.js'
import type { SessionCloseReason } from '../transport/transport.js'

const quietMs = 60_000
const toldMax = 64

export class RejectionLog {
  readonly #toldMs = new Map<string, number>()

  constructor(
    private readonly log: Logger,
    private readonly clock: Pick<Clock, 'monotonicMs'>,
    private readonly ownId: string,
  ) {}

  /** A connection ended before it was a session. */
  rejected(reason: SessionCloseReason, text: string): void {
    if (reason === 'peer-not-allowed') {
      const todo = 'if it is a master of yours, add its id to --allow'
      this.#tell(reason + whose(text), `a master was refused, its key is not allowed here: ${text}; ${todo}`)
    } else if (reason === 'refused-by-peer') {
      const todo = `it expects another standby; the id of this one is ${this.ownId}`
      this.#tell(reason + whose(text), `a master refused this host's key: ${text}; ${todo}`)
    }
  }

  #tell(key: string, message: string): void {
    const now = this.clock.monotonicMs()
    for (const [told, timeMs] of this.#toldMs) if (now - timeMs >= quietMs) this.#toldMs.delete(told)
    if (this.#toldMs.has(key) || this.#toldMs.size >= toldMax) return
    this.#toldMs.set(key, now)
    this.log.warn(message)
  }
}

/** The key where one is named; otherwise the host, as its port is another one each time. */
function whose(text: string): string {
  return /[0-9a-f]{64}/.exec(text)?.[0] ?? text.replace(/:\d+\b/g, '')
}
