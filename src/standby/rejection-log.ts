/**
 * Says whose key did not match, at either end: a master that is not allowed here, or one that expects another standby.
 * Strangers can cause it at will, so each is told at most once a minute, and of so many at most.
 */
import { LRUCache } from 'lru-cache'
import type { Clock } from '../core/clock.js'
import type { Logger } from '../core/log.js'
import type { SessionCloseReason } from '../transport/transport.js'

const quietMs = 60_000
const toldMax = 64

export class RejectionLog {
  readonly #told: LRUCache<string, true>

  constructor(
    private readonly log: Logger,
    clock: Pick<Clock, 'monotonicMs'>,
    private readonly own: { readonly id: string },
  ) {
    // An entry outlives its ttl by a tick there, and a time of 0 means none.
    const perf = { now: () => clock.monotonicMs() + 1 }
    this.#told = new LRUCache({ max: toldMax, ttl: quietMs - 1, ttlResolution: 0, perf })
  }

  /** A connection ended before it was a session. */
  rejected(reason: SessionCloseReason, text: string): void {
    if (reason === 'peer-not-allowed') {
      const todo = 'if it is a master of yours, add its id to --allow'
      this.#tell(reason + whose(text), `a master was refused, its key is not allowed here: ${text}; ${todo}`)
    } else if (reason === 'refused-by-peer') {
      const todo = `it expects another standby; the id of this one is ${this.own.id}`
      this.#tell(reason + whose(text), `a master refused this host's key: ${text}; ${todo}`)
    }
  }

  #tell(key: string, message: string): void {
    this.#told.purgeStale()
    // A full house of strangers is told no more: forgetting the oldest instead would let them fill the log.
    if (this.#told.has(key) || this.#told.size >= toldMax) return
    this.#told.set(key, true)
    this.log.warn(message)
  }
}

/** The key where one is named; otherwise the host, as its port is another one each time. */
function whose(text: string): string {
  return /[0-9a-f]{64}/.exec(text)?.[0] ?? text.replace(/:\d+\b/g, '')
}
