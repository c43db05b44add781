/**
 * What the standby has put on stage, and whether its history shows it again: a moment that was seen, byte for byte; one
 * that nobody saw is judged as a copy is, and counts as seen from then on.
 */
import { describe, UnderstudyError } from '../../src/core/errors.js'
import type { Observer, Shown } from '../support/observer.js'

/** A device each. */
const seenMax = 24

export class Past {
  readonly #seen: { at: string; content: Buffer }[] = []
  /** Moments that were looked at; of these, seen before; and those that were not there (any more). */
  looks = 0
  again = 0
  missing = 0
  readonly #beganMs = Date.now()

  constructor(
    private readonly observer: Observer,
    private readonly random: () => number,
  ) {}

  /** What is wrong with it; '': nothing. */
  saw({ at, content }: Shown): string {
    const known = this.#seen.find(moment => moment.at === at)
    if (known !== undefined) return known.content.equals(content) ? '' : `moment ${at} shows something else than before`
    this.#seen.push({ at, content })
    if (this.#seen.length > seenMax) this.#seen.splice(Math.floor(this.random() * seenMax), 1)
    return ''
  }

  /** A moment at random: one that was seen, or any since the beginning. A text says why there is none. */
  async look(): Promise<Shown | string> {
    const seen = this.random() < 0.6 ? this.#seen[Math.floor(this.random() * this.#seen.length)] : undefined
    const sinceMs = this.#beganMs + this.random() * (Date.now() - this.#beganMs)
    try {
      const shown = await this.observer.shown(seen?.at ?? new Date(sinceMs).toISOString())
      this.looks++
      if (seen !== undefined) this.again++
      return shown
    } catch (error) {
      if (error instanceof UnderstudyError && ['NO_MOMENT', 'NO_HISTORY'].includes(error.code)) this.missing++
      return describe(error)
    }
  }
}
