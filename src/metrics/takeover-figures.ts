/** What this process knows of takeovers: of its own from another one, and of those in which another one was to go on. */
export const takeoverOutcomes = ['taken-over', 'given-up'] as const
export type TakeoverOutcome = (typeof takeoverOutcomes)[number]

export class TakeoverFigures {
  /** For how long clients waited in the last one; undefined: there was none. */
  stallMs: number | undefined
  readonly #counts = new Map<TakeoverOutcome, number>()

  count(outcome: TakeoverOutcome): number {
    return this.#counts.get(outcome) ?? 0
  }

  ended(outcome: TakeoverOutcome): void {
    this.#counts.set(outcome, this.count(outcome) + 1)
  }
}
