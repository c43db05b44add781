/**
 * How old the oldest write is that a watermark has not reached, from samples of (newest sequence, time).
 *
 * The age is exact to one sampling interval and never too small by more than that; when the standby is away for long,
 * samples are thinned such that ages only get a little too large. Memory is bounded by `samplesMax`.
 */
interface Sample {
  /** The newest sequence that existed at... */
  sequence: bigint
  /** ...this moment, in milliseconds of a monotonic clock. */
  timeMs: number
}

export class LagSampler {
  #samples: Sample[] = []

  constructor(private readonly samplesMax = 1024) {}

  /** `applied`: what nobody will ask about any more. */
  observe(nowMs: number, written: bigint, applied: bigint): void {
    const newest = this.#samples.at(-1)
    if (newest === undefined ? written > applied : written > newest.sequence) {
      this.#samples.push({ sequence: written, timeMs: nowMs })
    }
    const first = this.#samples.findIndex(sample => sample.sequence > applied)
    this.#samples = first === -1 ? [] : this.#samples.slice(first)
    if (this.#samples.length > this.samplesMax) this.#samples = thin(this.#samples)
  }

  /** Milliseconds since the oldest write after `mark`; 0 when there is none. */
  ageMs(nowMs: number, mark: bigint): number {
    const oldest = this.#samples.find(sample => sample.sequence > mark)
    return oldest === undefined ? 0 : Math.max(0, nowMs - oldest.timeMs)
  }
}

/** Two neighbours become one that has the newer sequence and the older time. */
function thin(samples: Sample[]): Sample[] {
  const kept: Sample[] = []
  for (let index = 0; index < samples.length; index += 2) {
    const older = samples[index]
    const newer = samples[index + 1] ?? older
    if (older !== undefined && newer !== undefined) kept.push({ sequence: newer.sequence, timeMs: older.timeMs })
  }
  return kept
}
