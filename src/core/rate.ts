/** Bytes a second of a growing figure, smoothed over some seconds; starts over when the figure falls. */
export class Rate {
  #value: number | undefined
  #last: { timeMs: number; bytes: number } | undefined

  constructor(private readonly smoothingMs = 3000) {}

  observe(nowMs: number, bytes: number): void {
    const last = this.#last
    if (last === undefined || bytes < last.bytes) {
      this.#last = { timeMs: nowMs, bytes }
      this.#value = undefined
      return
    }
    const elapsed = nowMs - last.timeMs
    if (elapsed <= 0) return
    this.#last = { timeMs: nowMs, bytes }
    const now = ((bytes - last.bytes) * 1000) / elapsed
    const weight = this.#value === undefined ? 1 : 1 - Math.exp(-elapsed / this.smoothingMs)
    this.#value = (this.#value ?? 0) * (1 - weight) + now * weight
  }

  get bytesPerSecond(): number {
    return this.#value ?? 0
  }

  /** Null while nothing moves. */
  secondsFor(bytes: number): number | null {
    if (bytes <= 0) return 0
    return this.bytesPerSecond < 1 ? null : bytes / this.bytesPerSecond
  }
}
