/**
 * What a standby has granted its master: how long that one may still answer its clients. Counted from the last grant, from
 * the last welcome (a master that had needed none before takes that for one), and from this start, before which nobody
 * knows any more what was granted; on a clock that stands still while this host is suspended, which makes it longer.
 */
import { type Clock, sleep } from '../core/clock.js'
import { fencedMs } from '../core/lease.js'

const pollMs = 200

export class GrantedLease {
  #sinceMs: number
  #isAwaited = false

  constructor(private readonly clock: Clock) {
    this.#sinceMs = clock.monotonicMs()
  }

  /** The master of a session is told where this copy stands. */
  welcomes(): void {
    this.#sinceMs = this.clock.monotonicMs()
  }

  /** `leaseMs` is what is on disk, `ageMs` how long ago the engine granted one; -1: it has not. */
  leftMs(leaseMs: number | undefined, ageMs: number): number {
    if (leaseMs === undefined) return 0
    const now = this.clock.monotonicMs()
    const since = ageMs < 0 ? this.#sinceMs : Math.max(this.#sinceMs, now - ageMs)
    return Math.max(0, since + fencedMs(leaseMs) - now)
  }

  /** A promotion waits for the end of the last one, and none is granted meanwhile. */
  get isAwaited(): boolean {
    return this.#isAwaited
  }

  /** Resolves when it is over; `leftMs` is asked again and again, and may throw. */
  async over(leftMs: () => number): Promise<void> {
    this.#isAwaited = true
    try {
      for (let left = leftMs(); left > 0; left = leftMs()) await sleep(this.clock, Math.min(left, pollMs))
    } finally {
      this.#isAwaited = false
    }
  }
}
