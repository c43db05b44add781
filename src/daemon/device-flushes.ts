/**
 * Flushing the devices of a daemon that is about to hand over: all at once, one flush of each at a time, and who is slow
 * is known by name. A flush that takes too long goes on by itself; the next one of that device waits for it.
 */
import type { Clock } from '../core/clock.js'

export class DeviceFlushes {
  readonly #running = new Map<string, Promise<void>>()
  readonly #tookMs = new Map<string, number>()

  constructor(
    private readonly flush: (device: string) => Promise<void>,
    private readonly clock: Clock,
  ) {}

  /** What was written before the call is on disk when it resolves. */
  async all(devices: readonly string[]): Promise<void> {
    await Promise.all([...new Set(devices)].map(device => this.#one(device)))
  }

  /** Of all(): not done yet. */
  get pending(): string[] {
    return [...this.#running.keys()]
  }

  /** Whose last flush took the longest. */
  get slowest(): { device: string; ms: number } {
    const [device, ms] = [...this.#tookMs].sort(([, a], [, b]) => b - a)[0] ?? ['', 0]
    return { device, ms }
  }

  async #one(device: string): Promise<void> {
    const before = this.#running.get(device) ?? Promise.resolve()
    const flushed = before.catch(() => undefined).then(() => this.#timed(device))
    this.#running.set(device, flushed)
    try {
      await flushed
    } finally {
      if (this.#running.get(device) === flushed) this.#running.delete(device)
    }
  }

  async #timed(device: string): Promise<void> {
    const began = this.clock.monotonicMs()
    try {
      await this.flush(device)
    } finally {
      this.#tookMs.set(device, this.clock.monotonicMs() - began)
    }
  }
}
