// timeout: 120
/**
 * What is around a pair fails, not the pair: the network loses, repeats and reorders packets and changes addresses, the
 * standby's disk fills up. Every export stays a legal cut (G2), clients see no error, and both sides end equal unaided.
 */
import { closeSync, existsSync, mkdirSync, openSync, statfsSync, statSync, truncateSync, writeSync } from 'node:fs'
import t from 'tap'
import type { Test as Tap } from 'tap'
import { Daemon, execute, metric, type Pair, scratch, sparseFile, startPair, succeed } from '../support/daemon.js'
import { History, blockBytes, checkCut } from '../support/history.js'
import { Observer } from '../support/observer.js'
import { UdpRelay } from '../support/udp-relay.js'
import { Workload } from '../support/workload.js'

const seed = Number(process.env.UNDERSTUDY_SEED ?? Date.now() % 1_000_000)
const blocks = 1024
const sizeBytes = blocks * blockBytes

t.comment(`UNDERSTUDY_SEED=${seed}`)

class Run {
  readonly history = new History(seed, blocks)
  readonly workload: Workload
  readonly observer: Observer

  constructor(
    readonly t: Tap,
    readonly pair: Pair,
  ) {
    this.observer = new Observer(pair, sizeBytes)
    const address = { path: pair.socket }
    this.workload = new Workload({ history: this.history, address, exportName: pair.volume, seed })
    this.workload.start()
    t.teardown(() => this.workload.stop())
  }

  async legal(title: string): Promise<void> {
    const { violations } = checkCut(this.history, await this.observer.exported(), { atomic: true })
    this.t.strictSame(violations, [], title)
  }

  async endsEqual(): Promise<void> {
    await this.workload.stop()
    this.t.strictSame(this.workload.errors, [], 'no client saw an error')
    await this.observer.waitInSync()
    const [master, standby] = [await this.observer.masterContent(), await this.observer.exported()]
    this.t.ok(standby.equals(master), 'both sides end equal')
  }
}

t.test('loss, repetition, reordering and a changed address cost neither the order nor the session', async t => {
  const pair = await startPair(t, { idle: true, sizeBytes })
  const relay = await UdpRelay.open(Number(pair.standbyAddress.split(':')[1]), seed)
  t.teardown(() => relay.close())
  Object.assign(relay, { loss: 0.02, duplication: 0.02, reordering: 0.05, delayMs: 10 })
  const args = ['master', '--state', pair.master.state, '--device', pair.device, '--export', pair.volume]
  args.push('--listen', `unix:${pair.socket}`, '--standby', `${pair.standbyId}@127.0.0.1:${relay.port}`)
  // A relay in this very process: what it does not pass on in time is no loss of the network's.
  args.push('--metrics', `127.0.0.1:${pair.metrics.master}`, '--peer-timeout', '60s')
  pair.master = new Daemon(t, 'master', pair.master.state, () => args)
  await pair.standby.start()
  await pair.master.start()
  await new Observer(pair, sizeBytes).waitInSync()
  const run = new Run(t, pair)
  for (let round = 0; round < 3; round++) {
    await run.workload.written(500)
    await run.legal(`round ${round}`)
    relay.rebind()
  }
  await run.endsEqual()
  for (const reason of ['peer-timeout', 'log-full'])
    t.equal(await metric(pair.metrics.master, 'understudy_detaches_total', { reason }), 0, `no detach: ${reason}`)
})

// FLUSH used to wait for the whole peer timeout again and again: a standby without space still receives, and each
// record that it received ended `away`.
const noRoot = process.getuid?.() === 0 ? false : 'a small file system needs root'

t.test('a standby whose disk is full says so, keeps its cut, and goes on by itself', { skip: noRoot }, async t => {
  const pair = await startPair(t, { idle: true, sizeBytes, master: ['--peer-timeout', '1s'] })
  const store = pair.scratch.path('store')
  mkdirSync(store)
  await succeed('mount', ['-t', 'tmpfs', '-o', 'size=80m', 'none', store])
  t.teardown(() => execute('umount', ['-l', store]))
  await pair.standby.start()
  await pair.master.start()
  await new Observer(pair, sizeBytes).waitInSync()
  const run = new Run(t, pair)
  const { observer, workload, history } = run
  await workload.written(300)
  fill(store)
  const says = async (side: 'master' | 'standby', what: RegExp): Promise<boolean> => what.test((await observer.status(side))?.reason ?? '') // prettier-ignore
  await observer.until('the standby says that it has no space', 10_000, () => says('standby', /ENOSPC/))
  // In one look: what the standby frees of its log now and then lets it go on for a moment.
  await observer.until('the master says that it makes no progress, and is not protected', 10_000, async () => {
    const status = await observer.status()
    return status?.protected === false && /makes no progress/.test(status.reason)
  })
  const flushes = history.flushes.length
  await workload.written(1000, 20_000)
  t.ok(history.flushes.length - flushes >= 5, 'FLUSH after FLUSH is answered')
  // A record of which only a part found room leaves no cut to show: then the export is refused.
  await run
    .legal('while it is full')
    .catch((error: unknown) => t.match(String(error), /step is being applied|only in part.*ENOSPC/))
  const filling = statSync(`${store}/filling`).size
  truncateSync(`${store}/filling`, filling - 4 * 2 ** 20) // 5 % of it
  await observer.until('protected again', 20_000, async () => (await observer.status())?.protected === true)
  await run.endsEqual()
  await pair.standby.stop()
})

/** Leaves no room; ENOSPC is the point. */
function fill(store: string): void {
  const descriptor = openSync(`${store}/filling`, 'w')
  try {
    const piece = Buffer.alloc(1 << 16, 1)
    while (statfsSync(store).bavail > 0) writeSync(descriptor, piece)
  } catch {
    // full
  } finally {
    closeSync(descriptor)
  }
}

const noLoops =
  noRoot !== false ? noRoot : existsSync('/dev/loop-control') ? false : 'block devices: needs loop devices'

t.test('a used block device becomes an equal copy, also when the standby is killed', { skip: noLoops }, async t => {
  const files = scratch(t)
  const masterFile = await sparseFile(files.path('m.img'), sizeBytes)
  await succeed('sh', ['-c', `tr '\\0' '\\356' < ${masterFile} > ${files.path('s.img')}`])
  const device = await loopDevice(t, masterFile)
  const copy = await loopDevice(t, files.path('s.img'))
  const pair = await startPair(t, { device, standby: ['--device', `disk1=${copy}`] })
  const run = new Run(t, pair)
  await run.workload.written(300)
  await pair.standby.kill()
  await run.workload.written(100)
  await pair.standby.restart()
  await run.legal('after the kill')
  await run.endsEqual()
  for (const daemon of [pair.master, pair.standby]) t.equal((await daemon.stop()).code, 0)
  await succeed('cmp', [device, copy])
})

async function loopDevice(t: Tap, file: string): Promise<string> {
  const loop = (await succeed('losetup', ['--show', '-f', '-b', '4096', file])).trim()
  t.teardown(() => execute('losetup', ['-d', loop]))
  return loop
}
