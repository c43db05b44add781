/** Looks at the pair a few times a second: how long it was protected, and when acknowledgements counted for the standby. */
import { metric } from '../support/daemon.js'
import type { Judge, Promised } from './judge.js'
import { type Stage, volume } from './stage.js'

interface Look {
  epoch: number
  tick: number
  /** In sync so far as acknowledgements go: streaming, no step open, nobody away. */
  healthy: boolean
  alone: number
  timeMs: number
  /** When the look began. */
  beganMs: number
}

const everyMs = 150
/** Between a look and what is concluded from it: in more the peer timeout may have passed unseen, on a machine that stood still. */
const freshMs = 600

export class Watch {
  protectedMs = 0
  totalMs = 0
  /** Nobody answers: a daemon is started, which takes as long as the machine is busy. */
  absentMs = 0
  #disturbed = false
  #paused = false
  #calm: NodeJS.Timeout | undefined
  #last: Look | undefined
  #timer: NodeJS.Timeout | undefined
  #looking: Promise<void> | undefined

  constructor(
    private readonly stage: Stage,
    private readonly judge: Judge,
  ) {}

  start(): void {
    this.#timer = setInterval(() => {
      this.#looking ??= this.#look().finally(() => (this.#looking = undefined))
    }, everyMs)
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    clearTimeout(this.#calm)
    await this.#looking
  }

  /** A fault is on that may make the standby count as away between two looks. */
  disturb(): void {
    clearTimeout(this.#calm)
    this.#disturbed = true
  }

  /** The fault is over. What it has begun (a silence that counts as away) may show a moment later. */
  calm(): void {
    clearTimeout(this.#calm)
    this.#calm = setTimeout(() => (this.#disturbed = false), 300)
  }

  /** An epoch has begun: windows do not reach across. */
  reset(): void {
    this.#last = undefined
  }

  /** The process that counts is about to be another one: until resumes() no two looks belong together. */
  pauses(): void {
    this.#paused = true
    this.#last = undefined
  }

  async resumes(): Promise<void> {
    await this.#looking
    this.#paused = false
    this.#last = undefined
  }

  /** The master is dead since then and every request has ended: what was acknowledged after the last look was no different. */
  died(killedMs: number): void {
    const last = this.#last
    const isFresh = last !== undefined && killedMs - last.beganMs < freshMs
    if (last?.healthy === true && isFresh && last.epoch === this.judge.epoch && !this.#disturbed)
      this.#inSync(last.tick, Infinity, this.#what())
    this.#last = undefined
  }

  async #look(): Promise<void> {
    const { stage, judge } = this
    const [epoch, tick, beganMs] = [judge.epoch, judge.history.now, performance.now()]
    const [status, alone] = await Promise.all([
      stage.observer.status(stage.reigning),
      metric(stage.pair.metrics.master, 'understudy_alone_flushes_total', { group: volume }).catch(() => undefined),
    ])
    const ended = performance.now()
    const elapsedMs = Math.min(1000, ended - (this.#last?.timeMs ?? ended - everyMs))
    this.totalMs += elapsedMs
    if (status?.protected === true) this.protectedMs += elapsedMs
    else if (status === undefined) this.absentMs += elapsedMs
    // The tick is from before the look, the facts from after it.
    const healthy =
      stage.reigning === 'master' && status?.state === 'replicating' && alone !== undefined && status.reason === ''
    const look = { epoch, tick, healthy, alone: alone ?? -1, timeMs: ended, beganMs }
    const last = this.#last
    this.#last = this.#paused ? undefined : look
    if (
      this.#paused ||
      last === undefined ||
      !last.healthy ||
      !healthy ||
      last.epoch !== epoch ||
      judge.epoch !== epoch
    )
      return
    if (alone === last.alone) this.#inSync(last.tick, tick, this.#disturbed ? 'flushed' : this.#what())
  }

  #inSync(from: number, until: number, what: Promised): void {
    if (this.stage.durability !== 'async') this.judge.inSync(from, until, what)
  }

  #what(): Promised {
    const promised = { async: 'flushed', flush: 'flushed', received: 'received', durable: 'every' } as const
    return promised[this.stage.durability]
  }
}
