// timeout: 120
/**
 * Another filter for a volume that is being served: by `understudy filter --apply`, and by a reload of understudy.toml.
 * What is newly replicated enters by a step, what is newly left out becomes zeroes, nothing else is sent again, and every
 * export on the way is a cut: with the filter before, or with the one after.
 */
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { complement } from '../../src/filter/ranges.js'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { FilterChangeReply, FilterChangeRequest } from '../../src/daemon/control-protocol.js'
import { Daemon, metricBecomes, type Pair, scratch, sparseFile, startPair, succeed } from '../support/daemon.js'
import { blockBytes, checkCut, History } from '../support/history.js'
import { Observer } from '../support/observer.js'
import { Workload } from '../support/workload.js'

const MiB = 1 << 20
const page = 4096
/** Of the dirty map. */
const region = 64 << 10
const sizeBytes = 12 * MiB
type Span = [start: number, end: number]
const head: Span = [0, MiB]
const first: Span = [MiB, 3 * MiB]
const second: Span = [4 * MiB, 8 * MiB]
const swap: Span = [9 * MiB, 11 * MiB]
/** Of the file that is all X, on the ext4 of the first partition. */
const fileBytes = 64 << 10
const tail: Span = [sizeBytes - 33 * 512, sizeBytes]
/** Where a client writes all the time. */
const written: Span = [4 * MiB, 5 * MiB]

/** Three partitions and what is between them, full of something; the first is an ext4, the third a swap area. */
async function disk(path: string): Promise<string> {
  await sparseFile(path, sizeBytes)
  const sizes = [first, second, swap].map(([start, end]) => `start=${start / MiB}MiB,size=${(end - start) / MiB}MiB\\n`)
  await succeed('sh', [
    '-ec',
    `PATH=$PATH:/usr/sbin
     printf 'label: gpt\\n${sizes.join('')}' | sfdisk -q ${path}
     truncate -s 2M ${path}.swap && mkswap -q ${path}.swap && dd if=${path}.swap of=${path} bs=1M seek=9 conv=notrunc status=none`,
  ])
  const fd = openSync(path, 'r+')
  for (let at = MiB; at < tail[0]; at += page)
    if (at !== swap[0] && (at < written[0] || at >= written[1]))
      writeSync(fd, Buffer.alloc(page, 1 + ((at / page) % 251)), 0, Math.min(page, tail[0] - at), at)
  closeSync(fd)
  await succeed('sh', [
    '-ec',
    `PATH=$PATH:/usr/sbin
     mkdir ${path}.tree && head -c ${fileBytes} /dev/zero | tr '\\0' X >${path}.tree/file
     mke2fs -q -F -t ext4 -b 1024 -d ${path}.tree -E nodiscard,offset=${first[0]} ${path} 2M`,
  ])
  return path
}

interface Stage {
  pair: Pair
  observer: Observer
  /** understudy.toml with these keys of the volume. */
  file: (...keys: string[]) => void
  apply: (...flags: string[]) => ReturnType<Daemon['command']>
  /** Nothing but these becomes what the standby shows; on the way it shows a cut of either kind. */
  becomes: (t: Test, title: string, spans: Span[], ...before: Span[][]) => Promise<void>
}

async function stage(t: Test, ...keys: string[]): Promise<Stage> {
  const files = scratch(t)
  const pair = await startPair(t, { device: await disk(files.path('disk.img')), idle: true })
  const { volume, standbyId, standbyAddress, master, metrics } = pair
  const path = files.path('understudy.toml')
  const file = (...lines: string[]): void =>
    writeFileSync(
      path,
      `state = "${master.state}"
metrics.listen = "127.0.0.1:${metrics.master}"
nbd.listen = ["unix:${pair.socket}"]
[[group]]
standby = "${standbyId}@${standbyAddress}"
resync_rate = "16MiB"
[[group.volume]]
export = "${volume}"
device = "${pair.device}"
${lines.join('\n')}\n`,
    )
  file(...keys)
  pair.master = new Daemon(t, 'master', master.state, () => ['run', '--config', path])
  await pair.standby.start()
  await pair.master.start()
  const observer = new Observer(pair, sizeBytes)
  const history = new History(3, (written[1] - written[0]) / blockBytes)
  const becomes: Stage['becomes'] = async (t, title, spans, ...before) => {
    let shown = 'nothing'
    const whole = (await observer.masterContent()).fill(0, ...written)
    await observer.until(title, 20_000, async () => {
      const copy = await observer.exported()
      const { violations } = checkCut(history, copy.subarray(...written), { atomic: true })
      t.strictSame(violations, [], `${title}: a legal cut`)
      copy.fill(0, ...written)
      shown = is(copy, whole, spans) ? 'after' : before.some(one => is(copy, whole, one)) ? 'before' : 'neither'
      if (shown === 'neither') throw new Error(`${title}: neither the filter before nor the one after`)
      return shown === 'after'
    })
    await observer.waitInSync()
    t.equal(shown, 'after', title)
  }
  await observer.until('it can be used', 20_000, async () => (await observer.status())?.usable === true)
  const address = { path: pair.socket }
  const workload = new Workload({
    ...{ history, address, exportName: volume, seed: 3, firstByte: written[0] },
    ...{ writesPerSecond: 300, connections: 1, reconnect: true },
  })
  workload.start()
  t.teardown(() => workload.stop())
  const apply = (...flags: string[]): ReturnType<Daemon['command']> =>
    pair.master.command(['filter', volume, ...flags, '--apply'])
  return { pair, observer, file, apply, becomes }
}

function is(copy: Buffer, whole: Buffer, spans: Span[]): boolean {
  const kept = Buffer.from(whole)
  const ranges = spans.map(([start, end]) => ({ start: BigInt(start), end: BigInt(end) }))
  for (const { start, end } of complement(ranges, BigInt(sizeBytes))) kept.fill(0, Number(start), Number(end))
  return copy.equals(kept)
}

const { pair, observer, file, apply, becomes } = await stage(t, 'replicate = ["partition=2"]')
const client = new ControlClient(pair.master.state)
const sent = (t: Test, wanted: Parameters<typeof metricBecomes>[3]): Promise<number> =>
  metricBecomes(t, pair.metrics.master, 'understudy_resync_sent_bytes', wanted)
const only = (...spans: Span[]): Span[] => [head, ...spans, tail]
const without = ([start, end]: Span): Span[] => [[0, start], [end, sizeBytes]] // prettier-ignore
const swapPages: Span = [swap[0] + page, swap[1]]

/** Of whole regions that are not all zeroes: what has to be sent. */
function dataOf([start, end]: Span): number {
  const content = readFileSync(pair.device)
  let bytes = 0
  for (let at = start; at < end; at += region)
    if (content.subarray(at, at + region).some(byte => byte !== 0)) bytes += region
  return bytes
}

/** What the standby knows of the group. */
const noted = (): string =>
  readFileSync(join(pair.scratch.path('store'), '.groups', pair.volume, 'replica.json'), 'utf8').replace(/\s/g, '')

/** As `apply`, without a process. */
function change(asked: Partial<FilterChangeRequest>): Promise<FilterChangeReply> {
  const nothing = { replicate: [], exclude: [], excludeFiles: [], onlyFiles: [], fallback: '', dryRun: false }
  return client.post<FilterChangeReply>('/change-filter', { volume: pair.volume, clear: true, ...nothing, ...asked })
}

t.test('a partition enters by a step, and nothing else is sent again; left out it becomes zeroes', async t => {
  await becomes(t, 'the partition of the file', only(second))
  const added = await apply('--replicate', 'partition=1', '--replicate', 'partition=2')
  t.match(added.stdout, /^disk1: this filter is in force: 5.0 MiB of 12 MiB is left out\n/)
  t.match(added.stdout, /^ {2}replicate = \["partition=1", "partition=2"\]\nnewly replicated: 2 MiB;/m)
  t.match(added.stdout, /^this lasts until the daemon is started again, or reloads: write it to .*\.toml, too$/m)
  await becomes(t, 'it enters whole', only(first, second), only(second))
  await sent(t, dataOf(first))
  await observer.until('the standby has noted what it does not have', 20_000, () =>
    noted().includes(`"excluded":["${first[1]}","${second[0]}",`),
  )
  t.match(await change({ replicate: ['partition=2'] }), { enteringBytes: 0, leavingBytes: 2 * MiB })
  await becomes(t, 'it is zeroes', only(second), only(first, second))
  await sent(t, 0)
})

t.test('another kind of rule in place of the first, and what --dry-run says is what happens then', async t => {
  const asked = { excludeFiles: ['/swap'] }
  const { inForce, ...expected } = await change({ ...asked, dryRun: true })
  t.notOk(inForce)
  await becomes(t, 'nothing has changed', only(second))
  t.match(await change(asked), { ...expected, inForce: true, leavingBytes: 0 })
  await becomes(t, 'all but the pages of the swap area', without(swapPages), only(second))
  const most = expected.enteringBytes + 2 * region
  await sent(t, bytes => bytes > 0 && bytes <= most) // regions at the edges of what was left out
})

t.test('what the device cannot fulfil is refused in one line, and the filter before stays', async t => {
  for (const [asked, message] of [
    [{ exclude: ['0-1TiB'] }, /exclude 0-1099511627776: .* ends at/],
    [{ excludeFiles: ['partition=4:/x'] }, /has no partition 4/],
    [{ onlyFiles: ['x'] }, /absolute path/],
    [{ fallback: 'all' }, /it is about rules for files/],
    [{ exclude: ['x'] }, /'x' is not a range/],
  ] as const)
    await t.rejects(change(asked), { exitCode: 2, message })
  t.match(await apply('--replicate', 'partition=4'), {
    code: 2,
    stderr: /^understudy: replicate partition=4: not on [^\n]*, whose partitions are: 1, 2, 3\n$/,
  })
  t.match(await observer.status(), {
    filter: {
      keys: ['exclude_files = ["/swap"]'],
      leftOutByRanges: 0,
      leftOutBytes: swapPages[1] - swapPages[0],
      rules: [{ rule: '/swap' }],
    },
  })
  await becomes(t, 'as before', without(swapPages))
})

t.test(
  'back and forth, during a resynchronisation and a verify: the last one is in force, and nothing stays dirty',
  async t => {
    const verified = pair.master.command(['verify', pair.volume])
    const some: Span = [6 * MiB, 7 * MiB]
    const exclude = [`${some[0]}-${some[1]}`]
    const partition: Partial<FilterChangeRequest>[] = [{ replicate: ['partition=1'] }, { exclude }]
    for (const asked of [...partition, ...partition]) await change(asked)
    await becomes(t, 'the last one', without(some), only(first), without(swapPages))
    t.notMatch((await verified).stderr, /differ/, 'it may have come too late')
  },
)

t.test('a change while the standby is away holds when it is back', async t => {
  await pair.standby.kill()
  await change({ replicate: ['partition=1', 'partition=2'] })
  await change({ replicate: ['partition=1', 'partition=3'] })
  t.match((await observer.status())?.filter, {
    keys: ['replicate = ["partition=1", "partition=3"]'],
    leftOutByRanges: second[1] - second[0] + 2 * MiB + (tail[0] - swap[1]),
  })
  await pair.standby.start()
  await observer.until('a session', 20_000, async () => (await observer.status())?.usable === true)
  await becomes(t, 'the last one', only(first, swap), without([6 * MiB, 7 * MiB]), only(first, second))
})

t.test('killed right after a change: the file counts from the next start on', async t => {
  file('exclude = ["6MiB-7MiB"]')
  await change({ replicate: ['partition=2'] })
  await pair.master.kill()
  await pair.master.restart()
  await observer.until('it is in sync', 20_000, async () => (await observer.status())?.state === 'replicating')
  await becomes(t, 'the file', without([6 * MiB, 7 * MiB]), only(second), only(first, swap))
})

t.test('a reload brings the filter of the file into force; one that cannot be is refused in one line', async t => {
  const reload = async (pattern: RegExp, ...keys: string[]): Promise<void> => {
    file(...keys)
    const from = pair.master.program.stderr.length
    pair.master.program.signal('SIGHUP')
    await observer.until(`${pattern}`, 20_000, () => pattern.test(pair.master.program.stderr.slice(from)))
  }
  await reload(/reload: filter of volume 'disk1' changed$/m, 'replicate = ["partition=3"]', 'exclude_files = ["/swap"]')
  await becomes(t, 'partition and rule', only([swap[0], swap[0] + page]), without([6 * MiB, 7 * MiB]))
  await reload(
    /reload: failed: filter of volume 'disk1' changed: replicate partition=7: not on .*; the old one stays in force$/m,
    'replicate = ["partition=7"]',
  )
  await becomes(t, 'as before', only([swap[0], swap[0] + page]))
  const { code, stdout } = await pair.master.command(['verify', pair.volume])
  t.equal(code, 0, stdout)
})

t.test('a file of ext4 becomes zeroes, and comes back', async t => {
  const start = readFileSync(pair.device).indexOf(Buffer.alloc(fileBytes, 'X'))
  const blocks: Span = [start, start + fileBytes]
  t.match(await change({ excludeFiles: ['partition=1:/file'] }), { leftOutBytes: fileBytes, warnings: [] })
  await becomes(t, 'left out', without(blocks), only([swap[0], swap[0] + page]))
  t.match(await change({}), { leftOutBytes: 0, enteringBytes: fileBytes })
  await becomes(t, 'there again', [[0, sizeBytes]], without(blocks))
  await observer.until('the standby has noted that it has all', 20_000, () => !noted().includes('excluded'))
  t.match(await change({ excludeFiles: ['/file'] }), { leavingBytes: fileBytes })
  await becomes(t, 'left out again', without(blocks), [[0, sizeBytes]])
})
