/**
 * When the volumes of a group are verified by themselves. A volume is due `everyMs` after its last verify of any kind,
 * or at once if it never had one. Only while the group replicates; one at a time in this process, whatever the number
 * of groups; one that failed is tried again later.
 */
import type { Clock } from '../core/clock.js'

export interface ScrubOptions {
  clock: Clock
  everyMs: number
  /** last: ISO 8601. */
  volumes: () => { name: string; last: string | undefined }[]
  ready: () => boolean
  run: (name: string) => Promise<void>
}

const lookEveryMs = 1_000
const retryMsMax = 600_000

/** Of this process: a scrub is running. */
let taken = false

export class Scrub {
  readonly #options: ScrubOptions
  readonly #stop: () => void
  readonly #notBefore = new Map<string, number>()

  constructor(options: ScrubOptions) {
    this.#options = options
    this.#stop = options.clock.every(Math.min(lookEveryMs, options.everyMs), () => this.#look())
  }

  close(): void {
    this.#stop()
  }

  #look(): void {
    if (taken || !this.#options.ready()) return
    const due = this.#options.volumes().find(volume => this.#isDue(volume))
    if (due !== undefined) void this.#run(due.name)
  }

  #isDue({ name, last }: { name: string; last: string | undefined }): boolean {
    const { clock, everyMs } = this.#options
    if (clock.monotonicMs() < (this.#notBefore.get(name) ?? -Infinity)) return false
    if (last === undefined) return true
    const age = clock.wallMs() - Date.parse(last)
    return age >= everyMs || age < 0 // a clock that was set back must not put it off
  }

  async #run(name: string): Promise<void> {
    const { clock, everyMs, run } = this.#options
    taken = true
    try {
      await run(name)
    } catch {
      this.#notBefore.set(name, clock.monotonicMs() + Math.min(everyMs, retryMsMax))
    } finally {
      taken = false
    }
  }
}
