/** One run: a guest at work, and cuts. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { inSync, metric, type Owner, type Pair, ROOT, sleep, startPair } from '../support/daemon.js'
import { runGuest } from '../support/guest.js'
import { Observer } from '../support/observer.js'
import { Partition } from '../support/partition.js'
import { Cuts } from './cuts.js'
import { deviceBytes, fileSystemBytes, type Layout, makeCommand, makeDevice, markAt } from './layouts.js'
import { Model } from './model.js'
import { Tap } from './tap.js'

export type Policy = 'exclude' | 'only' | 'none'
export const policies: Record<Policy, string[]> = {
  exclude: ['--exclude-files', '/tmp/**', '--exclude-files', '/fsx/tmp/**'],
  only: ['--only-files', '/srv/**', '--only-files', '/fsx/srv/**'],
  none: [],
}

export type Fault = 'look' | 'link' | 'standby' | 'master'
export const allFaults: Fault[] = ['look', 'link', 'standby', 'master']
export const allKinds = [
  'append',
  'rewrite',
  'new_files',
  'named',
  'untar',
  'database',
  'git',
  'swap',
  'fsx',
  'across',
  'reuse',
]

export interface RunOptions {
  layout: Layout
  policy: Policy
  seconds: number
  seed: number
  kinds: string[]
  faults: Fault[]
  random: () => number
  spoil: boolean
}

/** How the sectors of left-out files begin. */
const leftOutFolders = ['/run/disk/tmp/', '/run/disk/fsx/tmp/']

/** What is written to a new file of them once a commit has said whose it is (work.py, `named`). */
const againText = ' again '
/** Of chosen data and metadata, with --only-files: what is nobody's yet is held. */
const sentMax = 1.1
const againBytesMax = 1 << 20

/** As long as so little was sent, the standby's log is in its first file, which has all of it. */
const segmentBytes = 60 << 20

interface Received {
  leftOut: number
  /** Of these, behind the commit that says whose they are. */
  again: number
}

function receivedIn(log: Buffer): Received {
  const received = { leftOut: 0, again: 0 }
  for (const folder of leftOutFolders)
    for (let at = log.indexOf(folder); at >= 0; at = log.indexOf(folder, at + 1)) {
      received.leftOut += 512
      if (log.subarray(at, at + 60).includes(againText)) received.again += 512
    }
  return received
}

export class Run {
  readonly #began = performance.now()
  #pair!: Pair
  #tap!: Tap
  #observer!: Observer
  #cuts!: Cuts
  /** What links and standbys are cut off with. */
  #partition: Partition | undefined

  constructor(
    private readonly owner: Owner,
    private readonly options: RunOptions,
  ) {}

  /** How much was wrong. */
  async toItsEnd(): Promise<number> {
    await this.#start()
    const before = { sent: await this.#sent(), received: this.#received() }
    const guest = this.#guest()
    let ended = false
    const gone = guest.finally(() => (ended = true))
    gone.catch(() => undefined)
    while (this.#tap.counted.writtenBytes === 0 && !ended) await sleep(50)
    while (!ended) {
      await Promise.race([gone, sleep(500 + 2500 * this.options.random())])
      if (!ended)
        await this.#inflict(this.options.faults[Math.floor(this.options.random() * this.options.faults.length)]!)
    }
    const output = await guest
    for (const line of output.match(/GUEST: (did|note) .*/g) ?? []) this.#say(line.slice(7).trim())
    await this.#observer.waitInSync(60_000)
    await this.#account(before)
    await this.#look('in sync at the end', true)
    await this.#verify()
    for (const error of this.#tap.errors) this.#cuts.complain(error)
    await this.#pair.master.stop()
    await this.#pair.standby.stop()
    await this.#cuts.judge()
    const { wrong, count, leftOut } = this.#cuts
    this.#say(`${count} cuts, ${leftOut} bytes of zeroes in left-out files, ${wrong} wrong`)
    return wrong
  }

  /** The most of zeroes in left-out files that a copy had. */
  get leftOut(): number {
    return this.#cuts.leftOut
  }

  get #onlyLooks(): boolean {
    return this.options.faults.every(fault => fault === 'look')
  }

  async #start(): Promise<void> {
    const { owner, options } = this
    const onlyLooks = this.#onlyLooks
    const pair = await startPair(owner, {
      idle: true,
      // Its packets may be lost on a busy machine: bytes are counted without it.
      ...(onlyLooks ? {} : { relay: async (port: number) => (this.#partition = await Partition.open(port)).port }),
      sizeBytes: deviceBytes,
      master: policies[options.policy],
    })
    this.#pair = pair
    owner.teardown(() => this.#partition?.close())
    await makeDevice(pair.scratch, options.layout)
    const content = readFileSync(pair.device)
    const isLeftOut = (sector: string): boolean => leftOutFolders.some(folder => sector.startsWith(folder))
    this.#tap = await Tap.open(pair.scratch.path('tap.sock'), pair.socket, pair.volume, markAt, isLeftOut)
    owner.teardown(() => this.#tap.close())
    this.#cuts = new Cuts(owner, pair.scratch, this.#tap, new Model(this.#tap, content), options.spoil)
    this.#observer = new Observer(pair, deviceBytes)
    await pair.standby.start()
    await pair.master.start()
    await inSync(pair)
  }

  #guest(): Promise<string> {
    const { layout, seed, seconds, kinds } = this.options
    const { options, sector, grows, remade } = layout
    const size = `${fileSystemBytes / 1024}k`
    return runGuest(this.owner, this.#pair.scratch, 'work.sh', {
      parameters: [
        ...[`options=${options}`, `sector=${sector}`, `seed=${seed}`, `seconds=${seconds}`],
        ...[`kinds=${[...kinds, ...(grows ? ['resize'] : [])].join(',')}`, `size=${size}`],
        ...(remade ? [`remake="${makeCommand(layout)} /dev/nbd0 ${size}"`] : []),
        ...[`files=${join(ROOT, 'src/core')}`],
      ],
      wire: this.#pair.scratch.path('tap.sock'),
      limitMs: seconds * 1000 + 120_000,
    })
  }

  async #inflict(fault: Fault): Promise<void> {
    const { random } = this.options
    const { master, standby } = this.#pair
    if (fault === 'link') {
      this.#partition?.cut(true)
      await this.#look('the link is cut')
      await sleep(2000 * random())
      this.#partition?.cut(false)
    } else if (fault === 'standby') {
      await standby.kill()
      this.#partition?.cut(random() < 0.5)
      await standby.restart()
      await this.#look('the standby was killed')
      this.#partition?.cut(false)
    } else if (fault === 'master') {
      await master.kill()
      await this.#look('the master was killed')
      await master.restart()
      if (random() < 0.7) await this.#observer.waitInSync(60_000)
      await this.#look('the master is there again')
    } else await this.#look('running')
  }

  /** What the standby shows is a cut to be judged. */
  async #look(when: string, whole = false): Promise<void> {
    let shown: Buffer | undefined
    let refused: unknown
    for (let tries = 0; shown === undefined && tries < 100; tries++)
      shown = await this.#observer.exported().catch(async (error: unknown) => {
        refused = error
        await sleep(100)
        return undefined
      })
    if (shown === undefined) throw new Error(`${when}: the standby shows nothing: ${String(refused)}`)
    await this.#cuts.take(shown, `${this.#time()} ${when}`, whole)
  }

  async #verify(): Promise<void> {
    const { code, stdout, stderr } = await this.#pair.master.command(['verify', this.#pair.volume])
    if (code !== 0) this.#cuts.complain(`verify: exit code ${code}: ${stdout}${stderr}`)
  }

  // ---- what was sent -----------------------------------------------------------------------------------------------

  async #sent(): Promise<number> {
    return (await metric(this.#pair.metrics.master, 'understudy_link_bytes_sent_total')) ?? 0
  }

  /** Bytes of left-out files in the standby's log. */
  #received(): Received {
    const folder = join(this.#pair.scratch.folder, 'store/.groups', this.#pair.volume, 'segments')
    return receivedIn(Buffer.concat(readdirSync(folder).map(name => readFileSync(join(folder, name)))))
  }

  async #account(before: { sent: number; received: Received }): Promise<void> {
    const { writtenBytes, leftOutBytes, markBytes } = this.#tap.counted
    const status = (await this.#pair.master.volume(this.#pair.volume)).filter
    const MiB = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`
    this.#say(
      `written ${MiB(writtenBytes)}, ${MiB(leftOutBytes)} of it of left-out files; since the master's start ` +
        `${MiB(status?.savedBytes ?? 0)} were not sent; left out now ${MiB(status?.leftOutBytes ?? 0)} in ${status?.rangeCount ?? 0} ranges`,
    )
    for (const { place, why } of status?.replicatedWhole ?? []) this.#say(`${place} is replicated whole: ${why}`)
    if (!this.#onlyLooks) return
    const sent = (await this.#sent()) - before.sent
    const chosen = writtenBytes - leftOutBytes + markBytes
    this.#say(
      `sent ${MiB(sent)}, ${(sent / chosen).toFixed(3)} x of ${MiB(chosen)} of chosen data, metadata and marks; ` +
        `of the left-out files' ${MiB(leftOutBytes)} the master sent ${MiB(leftOutBytes - (status?.savedBytes ?? 0))}`,
    )
    // Names that go to and fro take their data with them, and a directory in its inode cannot be watched.
    const { kinds, layout, policy } = this.options
    const isPlain = !kinds.some(kind => ['across', 'swap', 'fsx', 'reuse'].includes(kind))
    if (policy === 'only' && isPlain && layout.title.startsWith('ordered') && sent > sentMax * chosen)
      this.#cuts.complain(`${sent} bytes were sent for ${chosen} of what is chosen`)
    if (before.sent + sent >= segmentBytes) return
    const { leftOut, again } = this.#received()
    this.#say(
      `of left-out files ${MiB(leftOut - before.received.leftOut)} are in the standby's log, ` +
        `${MiB(again)} of it behind the commit that says so`,
    )
    if (this.options.policy !== 'none' && again > againBytesMax)
      this.#cuts.complain(`${again} bytes were sent behind the commit that names their owner, which is left out`)
  }

  #time(): string {
    return `${((performance.now() - this.#began) / 1000).toFixed(1)} s`
  }

  #say(text: string): void {
    this.owner.comment(`  ${text}`)
  }
}
