// timeout: 120
/**
 * The range and partition filter with real tables: what is chosen arrives, what is left out reads as zeroes on the
 * standby, and a table that clients rewrite is followed without stopping I/O, every export being a cut on the way.
 */
import { closeSync, copyFileSync, openSync, readFileSync, readSync, writeSync } from 'node:fs'
import t from 'tap'
import type { Test as Tap } from 'tap'
import { complement } from '../../src/filter/ranges.js'
import { command, type execute, scratch, SLOWER, sparseFile, startPair, succeed } from '../support/daemon.js'
import type { Pair } from '../support/daemon.js'
import { History, blockBytes, checkCut } from '../support/history.js'
import { NbdClient } from '../support/nbd-client.js'
import { Observer } from '../support/observer.js'
import { Workload } from '../support/workload.js'

const MiB = 1 << 20
const sizeBytes = 64 * MiB
type Span = [start: number, end: number]

/** A disk of 64 MiB with this table and other bytes everywhere a partition could be. */
async function disk(path: string, script: string): Promise<string> {
  await sparseFile(path, sizeBytes)
  const fd = openSync(path, 'r+')
  for (let offset = MiB; offset < sizeBytes - MiB; offset += 4096)
    writeSync(fd, Buffer.alloc(4096, 1 + ((offset / 4096) % 251)), 0, 4096, offset)
  closeSync(fd)
  await table(path, script)
  return path
}

async function table(path: string, script: string): Promise<void> {
  await succeed('sh', ['-c', `printf '${script}' | sfdisk -q --wipe never --wipe-partitions never ${path}`])
}

const gptBefore = 'label: gpt\\nstart=1MiB,size=8MiB\\nstart=10MiB,size=20MiB\\nstart=31MiB,size=9MiB\\n'
const gptAfter = 'label: gpt\\nstart=1MiB,size=8MiB\\nstart=10MiB,size=10MiB\\nstart=31MiB,size=19MiB\\n'
const mbr =
  'label: dos\\nstart=1MiB,size=8MiB,type=83\\nstart=10MiB,size=50MiB,type=5\\nstart=11MiB,size=8MiB\\nstart=20MiB,size=10MiB\\n'

const gptTail = sizeBytes - 33 * 512

/** The content with everything outside of these spans zeroed. */
function only(content: Buffer, spans: Span[]): Buffer {
  const kept = Buffer.from(content)
  const ranges = spans.map(([start, end]) => ({ start: BigInt(start), end: BigInt(end) }))
  for (const { start, end } of complement(ranges, BigInt(sizeBytes))) kept.fill(0, Number(start), Number(end))
  return kept
}

function firstDifference(a: Buffer, b: Buffer): string {
  if (a.equals(b)) return 'none'
  for (let offset = 0; offset < a.length; offset += 512) {
    if (!a.subarray(offset, offset + 512).equals(b.subarray(offset, offset + 512)))
      return `at ${offset} (${(offset / MiB).toFixed(3)} MiB)`
  }
  return 'none'
}

async function follows(t: Tap, observer: Observer, spans: Span[], title: string): Promise<void> {
  await observer.waitInSync()
  t.equal(firstDifference(await observer.exported(), only(await observer.masterContent(), spans)), 'none', title)
}

async function writeAt(pair: Pair, offset: number, data: Buffer): Promise<void> {
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  const reply = await client.write(offset, data)
  client.destroy()
  if (reply.error !== 0) throw new Error(`write at ${offset}: error ${reply.error}`)
}

t.test(
  'GPT: table and chosen partition arrive, the rest reads as zeroes, writes across an edge are clipped',
  async t => {
    const device = await disk(scratch(t).path('disk.img'), gptBefore)
    const pair = await startPair(t, { device, master: ['--replicate', 'partition=2'] })
    const observer = new Observer(pair, sizeBytes)
    const spans: Span[] = [[0, MiB], [10 * MiB, 30 * MiB], [gptTail, sizeBytes]] // prettier-ignore
    await follows(t, observer, spans, 'after the initial synchronisation')
    await writeAt(pair, 10 * MiB - 8192, Buffer.alloc(16384, 0xa1))
    await writeAt(pair, 30 * MiB - 1536, Buffer.alloc(4096, 0xa2))
    await writeAt(pair, 4 * MiB, Buffer.alloc(MiB, 0xa3))
    await writeAt(pair, 9 * MiB, Buffer.alloc(23 * MiB, 0xa4))
    await follows(t, observer, spans, 'writes across both edges, outside, and over all of it')
    await succeed('sfdisk', ['--verify', pair.image])
  },
)

t.test('MBR: a logical partition comes with the chain of EBRs; an excluded range is cut out of it', async t => {
  const device = await disk(scratch(t).path('disk.img'), mbr)
  const pair = await startPair(t, { device, master: ['--replicate', 'partition=6', '--exclude', '22MiB-23MiB'] })
  const observer = new Observer(pair, sizeBytes)
  const second = 19 * MiB // sfdisk puts the EBR a mebibyte before the partition
  const ebr = [10 * MiB, second].map((start): Span => [start, start + 512])
  const spans: Span[] = [[0, MiB], ...ebr, [20 * MiB, 22 * MiB], [23 * MiB, 30 * MiB]]
  await follows(t, observer, spans, 'after the initial synchronisation')
  await writeAt(pair, 19 * MiB + 4096, Buffer.alloc(8 * MiB, 0xb1))
  await follows(t, observer, spans, 'a write over the edge and the excluded range')
  const partitions = (path: string): Promise<string> => succeed('sh', ['-c', `sfdisk -d ${path} | grep -o 'start=.*'`])
  t.equal(await partitions(pair.image), await partitions(device), 'the standby shows the same partitions')
})

t.test('excluded ranges work without partitions, and several partitions without their neighbours', async t => {
  const device = await disk(scratch(t).path('disk.img'), gptBefore)
  const pair = await startPair(t, { device, master: ['--exclude', '5MiB+1MiB', '--exclude', '5632KiB-7MiB'] })
  const observer = new Observer(pair, sizeBytes)
  await follows(t, observer, [[0, 5 * MiB], [7 * MiB, sizeBytes]], 'overlapping ranges are joined') // prettier-ignore
  await pair.master.stop()
  await pair.standby.stop()
  const two = await startPair(t, { device, master: ['--replicate', 'partition=1', '--replicate', 'partition=3'] })
  await follows(t, new Observer(two, sizeBytes), [[0, 9 * MiB], [31 * MiB, 40 * MiB], [gptTail, sizeBytes]], 'two partitions') // prettier-ignore
})

t.test(
  'a table rewritten through NBD is followed under load: what is new enters whole, what is left out becomes zeroes',
  async t => {
    const files = scratch(t)
    const device = await disk(files.path('disk.img'), gptBefore)
    const pair = await startPair(t, { device, master: ['--replicate', 'partition=2', '--replicate', 'partition=3'] })
    const observer = new Observer(pair, sizeBytes)
    const sectors = await changedTable(device, files.path('copy.img'))

    // A history in 10..14 MiB, which both tables replicate.
    const history = new History(5, (4 * MiB) / blockBytes)
    await writeAt(pair, 10 * MiB, Buffer.alloc(4 * MiB))
    const workload = new Workload({
      history,
      address: { path: pair.socket },
      exportName: pair.volume,
      seed: 5,
      firstByte: 10 * MiB,
    })
    workload.start()
    t.teardown(() => workload.stop())
    await workload.written(100)
    const [gone, added]: [Span, Span] = [[20 * MiB, 30 * MiB], [40 * MiB, 50 * MiB]] // prettier-ignore
    const master = readFileSync(device)
    const seen = { before: 0, after: 0 }
    const look = async (): Promise<void> => {
      const content = await observer.exported()
      t.strictSame(
        checkCut(history, content.subarray(10 * MiB, 14 * MiB), { atomic: true }).violations,
        [],
        'the history is a legal cut',
      )
      const same = (span: Span): boolean => content.subarray(...span).equals(master.subarray(...span))
      const zero = (span: Span): boolean => content.subarray(...span).equals(Buffer.alloc(span[1] - span[0]))
      const state = same(gone) && zero(added) ? 'before' : zero(gone) && same(added) ? 'after' : 'mixed'
      if (state === 'mixed') t.fail(`neither the old nor the new ranges: removed ${zero(gone)}, added ${same(added)}`)
      else seen[state]++
    }
    await look()
    for (const [offset, data] of sectors) await writeAt(pair, offset, data)
    for (const end = performance.now() + 15_000 * SLOWER; seen.after < 2 && performance.now() < end;) await look()
    t.ok(seen.before > 0 && seen.after > 0, `seen before and after the change: ${JSON.stringify(seen)}`)
    await workload.stop()
    t.strictSame(workload.errors, [])
    await follows(t, observer, [[0, MiB], [10 * MiB, 20 * MiB], [31 * MiB, 50 * MiB], [gptTail, sizeBytes]], 'the new ranges') // prettier-ignore
    await writeAt(pair, 39 * MiB, Buffer.alloc(12 * MiB, 0xc1))
    await follows(t, observer, [[0, MiB], [10 * MiB, 20 * MiB], [31 * MiB, 50 * MiB], [gptTail, sizeBytes]], 'are in force') // prettier-ignore
  },
)

t.test('a partition that is deleted while replicated stays where it was last seen, and the log says so', async t => {
  const device = await disk(scratch(t).path('disk.img'), gptBefore)
  const pair = await startPair(t, { device, master: ['--replicate', 'partition=3'] })
  const observer = new Observer(pair, sizeBytes)
  const head = Buffer.alloc(MiB)
  const tail = Buffer.alloc(33 * 512)
  const copy = `${device}.copy`
  copyFileSync(device, copy)
  await succeed('sgdisk', ['-d', '3', copy])
  const fd = openSync(copy, 'r')
  readSync(fd, head, 0, head.length, 0)
  readSync(fd, tail, 0, tail.length, gptTail)
  closeSync(fd)
  await writeAt(pair, gptTail, tail)
  await writeAt(pair, 0, head)
  await observer.until('the warning', 8000, () =>
    /partition 3 has vanished/.test(pair.master.program.stderr + pair.master.program.stdout),
  )
  await writeAt(pair, 32 * MiB, Buffer.alloc(4096, 0xd1))
  await follows(t, observer, [[0, MiB], [31 * MiB, 40 * MiB], [gptTail, sizeBytes]], 'it is still replicated') // prettier-ignore
})

t.test('a policy that the device cannot fulfil is refused at start in one line', async t => {
  const files = scratch(t)
  const device = await disk(files.path('disk.img'), gptBefore)
  const bare = await sparseFile(files.path('bare.img'), sizeBytes)
  const start = (path: string, ...more: string[]): ReturnType<typeof execute> =>
    command([
      'master',
      '--state',
      files.path('m'),
      '--device',
      path,
      '--export',
      'd',
      '--listen',
      `unix:${files.path('n.sock')}`,
      ...more,
    ])
  const cases: [string, string[], RegExp][] = [
    [device, ['--replicate', 'partition=4'], /partition=4: not on .*disk\.img, whose partitions are: 1, 2, 3/],
    [bare, ['--replicate', 'partition=1'], /bare\.img has no partition table/],
    [device, ['--exclude', '0-1TiB'], /disk\.img ends at 67108864/],
  ]
  for (const [path, flags, line] of cases) {
    const output = await start(path, ...flags)
    t.equal(output.code, 2, flags.join(' '))
    t.match(output.stderr, line)
    t.equal(output.stderr.trim().split('\n').length, 1, 'one line')
  }
})

/** Writes that turn the device's table into the new one, in the order a tool makes them: sector by sector. */
async function changedTable(device: string, copy: string): Promise<[offset: number, data: Buffer][]> {
  copyFileSync(device, copy)
  await table(copy, gptAfter)
  const [before, after] = [readFileSync(device), readFileSync(copy)]
  const writes: [number, Buffer][] = []
  for (let offset = 0; offset < sizeBytes; offset += 512) {
    const sector = after.subarray(offset, offset + 512)
    if (!sector.equals(before.subarray(offset, offset + 512))) writes.push([offset, Buffer.from(sector)])
  }
  return writes.reverse()
}
