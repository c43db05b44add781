/**
 * What the standby has put on stage, and whether its history shows it again: a moment that was seen, byte for byte; one
 * that nobody saw is judged as a copy is, and counts as seen from then on.
 */
import { describe, UnderstudyError } from '../../src/core/errors.js'
import type { Observer, Shown } from '../support/observer.js'

/** A device each; the history of such a run holds some seconds. */
const seenMax = 8
const reachMs = 5_000

export class Past {
  readonly #seen: { at: string; content: Buffer }[] = []
  /** Moments that were looked at; of these, seen before; and those that were not there (any more). */
  looks = 0
  again = 0
  missing = 0

  constructor(
    private readonly observer: Observer,
    private readonly random: () => number,
  ) {}

  /** What is wrong with it; '': nothing. */
  saw({ at, content }: Shown): string {
    const known = this.#seen.find(moment => moment.at === at)
    if (known !== undefined) return known.content.equals(content) ? '' : `moment ${at} shows something else than before`
    this.#seen.push({ at, content })
    if (this.#seen.length > seenMax) this.#seen.shift()
    return ''
  }

  /** A moment at random: one that was seen, or any of the last seconds. A text says why there is none. */
  async look(): Promise<Shown | string> {
    const seen = this.random() < 0.6 ? this.#seen[Math.floor(this.random() * this.#seen.length)] : undefined
    try {
      const shown = await this.observer.shown(seen?.at ?? new Date(Date.now() - this.random() * reachMs).toISOString())
      this.looks++
      if (seen !== undefined) this.again++
      return shown
    } catch (error) {
      if (error instanceof UnderstudyError && ['NO_MOMENT', 'NO_HISTORY'].includes(error.code)) this.missing++
      return describe(error)
    }
  }
}
