/**
 * Torture: a pair of real daemons, clients that tag every block they write, and faults for minutes on end. After each
 * fault what the standby puts on stage is judged: a legal cut (G2), at least as new as the last acknowledgement that
 * promised it (G3); 10 s after the last fault both sides are equal (G4).
 *
 *   npm run torture -- --minutes N [--least FAULTS] [--seed S] [--rate WRITES] [--faults TEXT] [--lie] [--quiet]
 *
 * --least: it goes on until there were so many faults, and 5000 writes for each, for LEAST_MINUTES_MAX at most. --faults: only those whose name contains TEXT. --lie: a sync does nothing, as in a build without fdatasync.
 * Exit codes: 0 nothing was lost, 1 something was (each loss is a line), 2 wrong usage.
 */
import { parseArgs } from 'node:util'
import { type Owner, sleep } from '../support/daemon.js'
import { blockBytes, seededRandom } from '../support/history.js'
import type { Shown } from '../support/observer.js'
import { Workload } from '../support/workload.js'
import { type Fault, goOn, type Torture } from './fault.js'
import { faults } from './faults.js'
import { Judge } from './judge.js'
import { Past } from './past.js'
import { connectionsAtRest, type Stage, setStage, volume } from './stage.js'
import { Watch } from './watch.js'

const blocks = 1024
const epochWrites = 15_000
/** Between faults, so that the pair is in sync now and then. */
const pauseMs: [number, number] = [150, 450]

/** Of a run that is to have so many faults, on however slow a machine. */
const LEAST_MINUTES_MAX = 6

const { values: options } = parseArgs({
  options: {
    minutes: { type: 'string', default: '2' },
    least: { type: 'string', default: '0' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    rate: { type: 'string', default: '7000' },
    faults: { type: 'string', default: '' },
    lie: { type: 'boolean', default: false },
    quiet: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

class Run {
  readonly #began = performance.now()
  readonly #random: () => number
  readonly #judge: Judge
  readonly #past: Past
  readonly #lost: string[] = []
  readonly #counts = new Map<string, number>()
  #kills = 0
  #verdicts = 0
  #unjudged = 0

  constructor(
    private readonly stage: Stage,
    private readonly seed: number,
  ) {
    this.#random = seededRandom(seed)
    this.#judge = new Judge(seed, blocks)
    this.#past = new Past(stage.observer, this.#random)
  }

  /** True: nothing was lost. */
  async torture(minutes: number, least: number, rate: number, wanted: Fault[]): Promise<boolean> {
    const { stage } = this
    const workload = new Workload({
      history: this.#judge.begin(),
      address: { path: stage.pair.socket },
      exportName: volume,
      seed: this.seed,
      connections: connectionsAtRest,
      depth: 16,
      writesPerSecond: rate,
      blocksMax: 3,
      reconnect: true,
    })
    const watch = new Watch(stage, this.#judge)
    const torture = this.#context(workload, watch)
    workload.start()
    watch.start()
    const deck = new Deck(
      wanted.filter(fault => this.#possible(fault)),
      this.#random,
    )
    const end = this.#began + minutes * 60_000
    const latest = this.#began + LEAST_MINUTES_MAX * 60_000
    const isEnough = (): boolean => this.#inflicted() >= least && workload.submitted >= 5200 * least
    while ((performance.now() < end || (performance.now() < latest && !isEnough())) && this.#lost.length === 0) {
      await sleep(pauseMs[0] + this.#random() * (pauseMs[1] - pauseMs[0]))
      if (this.#judge.history.writes.length > epochWrites) await this.#newEpoch(torture)
      await this.#inflict(deck.draw(), torture)
    }
    await this.#ends(torture)
    await watch.stop()
    this.#loses([...new Set(workload.errors)].map(error => `a client's request failed: ${error} (G1)`))
    this.#figures(workload, watch)
    return this.#lost.length === 0
  }

  #context(workload: Workload, watch: Watch): Torture {
    const torture: Torture = {
      stage: this.stage,
      workload,
      judge: this.#judge,
      watch,
      random: this.#random,
      note: text => this.#say(`    ${text}`),
      judgeStandby: when => this.#judgeStandby(when),
      loses: lost => this.#loses(lost),
    }
    return torture
  }

  #possible(fault: Fault): boolean {
    const why = fault.missing?.(this.stage)
    if (why !== undefined) this.#say(`left out: ${fault.name}: ${why}`)
    return why === undefined
  }

  async #inflict(fault: Fault, torture: Torture): Promise<void> {
    this.#say(`${fault.name} (${this.stage.durability})`)
    this.#counts.set(fault.name, (this.#counts.get(fault.name) ?? 0) + 1)
    if (fault.kill) this.#kills++
    await fault.run(torture)
    await this.#judgeStandby('afterwards')
    torture.watch.calm()
  }

  /** All requests end, and the next ones are judged by themselves: a history of minutes would take minutes to judge. */
  async #newEpoch(torture: Torture): Promise<void> {
    await torture.workload.pause()
    const content = await this.stage.observer.masterContent()
    this.#loses(this.#judge.masterAfterKill(content))
    goOn(torture, 'master', content)
  }

  async #judgeStandby(when: string): Promise<void> {
    const promises = this.#judge.promises()
    const limit = sleep(8000).then(() => 'it took more than 8 s')
    const shown = await Promise.race([this.stage.observer.shown().catch((error: unknown) => String(error)), limit])
    if (typeof shown === 'string') {
      this.#unjudged++
      return this.#say(`    ${when}: nothing to judge: ${shown.slice(0, 200)}`)
    }
    const { lost, cut } = this.#judge.standby(shown.content, promises)
    this.#verdicts++
    this.#say(`    ${when}: ${lost.length === 0 ? `a legal cut, ${cut}` : 'LOST'}`)
    this.#loses(lost)
    await this.#judgePast(shown)
  }

  async #judgePast(present: Shown): Promise<void> {
    const past = await Promise.race([this.#past.look(), sleep(8000).then(() => 'it took more than 8 s')])
    if (typeof past === 'string') this.#say(`    its past: nothing to judge: ${past.slice(0, 200)}`)
    const moments = typeof past === 'string' ? [present] : [present, past]
    for (const moment of moments) {
      const wrong = this.#past.saw(moment)
      if (wrong !== '') this.#loses([wrong])
    }
    if (typeof past !== 'string')
      this.#loses(this.#judge.standby(past.content, new Map()).lost.map(loss => `moment ${past.at}: ${loss}`))
  }

  async #ends({ workload, stage }: Torture): Promise<void> {
    const began = performance.now()
    this.#say('the faults are over')
    await workload.pause()
    try {
      await stage.observer.waitInSync(10_000)
      this.#say(`in sync ${((performance.now() - began) / 1000).toFixed(1)} s later`)
      const [master, standby] = [await stage.observer.masterContent(), await stage.observer.exported()]
      this.#loses(this.#judge.masterAfterKill(master))
      if (!standby.equals(master)) this.#loses(['the standby differs from the master when both are in sync'])
      this.#loses(this.#judge.standby(standby, this.#judge.promises()).lost)
    } catch (error) {
      this.#loses([`10 s after the faults applied is not written: ${String(error)}`])
    }
    void workload.stop()
    workload.resume()
  }

  #inflicted(): number {
    return [...this.#counts.values()].reduce((sum, one) => sum + one, 0)
  }

  #loses(lost: string[]): void {
    for (const text of lost) {
      this.#lost.push(text)
      process.stdout.write(`${this.#time()} LOST ${text}\n`)
    }
  }

  #figures(workload: Workload, watch: Watch): void {
    const count = this.#inflicted()
    for (const [name, times] of this.#counts) this.#say(`${String(times).padStart(5)} ${name}`)
    const judged = this.#judge.judged
    const protectedPart = Math.round((100 * watch.protectedMs) / Math.max(1, watch.totalMs - watch.absentMs))
    process.stdout.write(
      `torture: seed ${this.seed}: ${count} faults of ${this.#counts.size} kinds, ${this.#kills} kills, ` +
        `${this.#verdicts} verdicts (${this.#unjudged} times nothing to judge), ${judged} writes checked, ` +
        `${this.#past.looks} moments of the past (${this.#past.again} seen before; ${this.#past.missing} times not there), ` +
        `protected ${protectedPart} %, lost ${this.#lost.length}\n`,
    )
  }

  #say(text: string): void {
    if (!options.quiet) process.stdout.write(`${this.#time()} ${text}\n`)
  }

  #time(): string {
    return `${((performance.now() - this.#began) / 1000).toFixed(1).padStart(7)} s`
  }
}

/** Deals every fault once before any comes again. */
class Deck {
  #left: Fault[] = []

  constructor(
    private readonly all: Fault[],
    private readonly random: () => number,
  ) {}

  draw(): Fault {
    if (this.#left.length === 0) this.#left = [...this.all]
    const [fault] = this.#left.splice(Math.floor(this.random() * this.#left.length), 1)
    if (fault === undefined) throw new Error('no faults')
    return fault
  }
}

async function main(): Promise<number> {
  const minutes = Number(options.minutes)
  const least = Number(options.least)
  const seed = Number(options.seed)
  const rate = Number(options.rate)
  const wanted = faults.filter(fault => fault.name.includes(options.faults))
  if (
    options.help ||
    wanted.length === 0 ||
    !(minutes > 0) ||
    !(least >= 0) ||
    !Number.isInteger(seed) ||
    !(rate > 0)
  ) {
    process.stderr.write(
      'usage: npm run torture -- --minutes N [--least FAULTS] [--seed S] [--rate WRITES] [--faults TEXT] [--lie] [--quiet]\n',
    )
    return options.help ? 0 : 2
  }
  const endings: (() => unknown)[] = []
  let passing = true
  const owner: Owner = {
    teardown: ending => void endings.unshift(ending),
    passing: () => passing,
    comment: (...text) => void process.stdout.write(`${text.join(' ')}\n`),
  }
  try {
    process.stdout.write(`torture: seed ${seed}, ${minutes} minutes${options.lie ? ', syncs that lie' : ''}\n`)
    const stage = await setStage(owner, blocks * blockBytes, seed)
    await stage.pair.standby.start()
    await stage.pair.master.start()
    await stage.observer.waitInSync()
    if (options.lie) for (const host of Object.values(stage.power)) host.lie()
    passing = await new Run(stage, seed).torture(minutes, least, rate, wanted)
  } catch (error) {
    passing = false
    process.stdout.write(`torture: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
  } finally {
    for (const ending of endings) await ending()
  }
  return passing ? 0 : 1
}

process.exit(await main())
