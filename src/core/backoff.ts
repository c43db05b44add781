/** Waiting times between attempts to reach the standby: doubling, with jitter, so that many masters do not knock in step. */
export class Backoff {
  #nextMs: number

  constructor(
    private readonly leastMs: number,
    private readonly mostMs: number,
    private readonly random: () => number,
  ) {
    this.#nextMs = leastMs
  }

  /** Between half of the step and all of it. */
  next(): number {
    const step = this.#nextMs
    this.#nextMs = Math.min(step * 2, this.mostMs)
    return jitter(step, this.random)
  }

  reset(): void {
    this.#nextMs = this.leastMs
  }
}

export function jitter(milliseconds: number, random: () => number): number {
  return Math.round(milliseconds * (0.5 + random() / 2))
}
