/**
 * How long a pair stays apart that was detached because the standby lagged too far behind (`max-lag`). Nothing has made
 * the standby faster meanwhile: attached at once it would resynchronise, lag and be detached again, over and over.
 *
 *   10 s, doubled at each further such detach, at most 10 min; from the beginning again when the pair has held for ten
 *   times as long as it was kept apart.
 */
const leastMs = 10_000
const mostMs = 600_000

export class LagPause {
  #pauseMs = 0
  #detachedMs = -Infinity

  /** Of a detach at `nowMs`, monotonic. */
  next(nowMs: number): number {
    const heldMs = nowMs - this.#detachedMs - this.#pauseMs
    this.#pauseMs = heldMs > 10 * this.#pauseMs ? leastMs : Math.min(2 * this.#pauseMs, mostMs)
    this.#detachedMs = nowMs
    return this.#pauseMs
  }
}
