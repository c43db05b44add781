// timeout: 120
/**
 * Rules for files that are in force: a swap area that is left out while clients write to it, that becomes a file system
 * and a swap area again without I/O being stopped, every export being a cut on the way; and what is refused.
 */
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import type { Test as Tap } from 'tap'
import {
  command,
  metricBecomes,
  type Pair,
  scratch,
  type Scratch,
  sparseFile,
  startPair,
  succeed,
} from '../support/daemon.js'
import { CMD, CMD_FLAG, NbdClient } from '../support/nbd-client.js'
import { Observer } from '../support/observer.js'
import { changedBlocks, reusedBlocks } from '../support/reused-blocks.js'
import { startSuccession, takeOver } from '../support/takeover.js'

const MiB = 1 << 20
const page = 4096
const sizeBytes = 32 * MiB
type Span = [start: number, end: number]
const swap: Span = [10 * MiB, 18 * MiB]
const swapData: Span = [swap[0] + page, swap[1]]

/** Partition 1: ext4 with a file; 2: swap, its pages full of something; 3: what looks like LUKS. */
async function disk(files: Scratch): Promise<string> {
  const path = await sparseFile(files.path('disk.img'), sizeBytes)
  const script = [
    `printf 'label: gpt\\nstart=1MiB,size=8MiB\\nstart=10MiB,size=8MiB\\nstart=20MiB,size=4MiB\\n' | sfdisk -q ${path}`,
    `mkdir ${files.path('tree')}`,
    `head -c 65536 /dev/zero | tr "\\\\0" X >${files.path('tree')}/scratch`,
    `mke2fs -q -F -t ext4 -O ^has_journal -b 4096 -d ${files.path('tree')} -E offset=${MiB} ${path} 8M`,
  ]
  await succeed('sh', ['-ec', `PATH=$PATH:/usr/sbin; ${script.join('\n')}`])
  const fd = openSync(path, 'r+')
  writeSync(fd, Buffer.from('LUKS\xba\xbe\0\x01', 'latin1'), 0, 8, 20 * MiB)
  writeSync(fd, await made(files, 'mkswap -q'), 0, page, swap[0])
  for (let at = swapData[0]; at < swapData[1]; at += page) writeSync(fd, Buffer.alloc(page, 0x51), 0, page, at)
  closeSync(fd)
  return path
}

/** Partition 2 as this program makes it. */
async function made(files: Scratch, maker: string): Promise<Buffer> {
  const path = files.path('made.img')
  writeFileSync(path, Buffer.alloc(swap[1] - swap[0]))
  await succeed('sh', ['-ec', `PATH=$PATH:/usr/sbin; ${maker} ${path}`])
  return readFileSync(path)
}

async function writeAt(pair: Pair, ...writes: [offset: number, data: Buffer][]): Promise<void> {
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  for (const [offset, data] of writes) {
    const reply = await client.write(offset, data)
    if (reply.error !== 0) throw new Error(`write at ${offset}: error ${reply.error}`)
  }
  client.destroy()
}

function without(content: Buffer, ...spans: Span[]): Buffer {
  const rest = Buffer.from(content)
  for (const span of spans) rest.fill(0, ...span)
  return rest
}

function firstDifference(a: Buffer, b: Buffer): string {
  for (let offset = 0; offset < a.length; offset += 512)
    if (!a.subarray(offset, offset + 512).equals(b.subarray(offset, offset + 512))) return `at ${offset}`
  return 'none'
}

async function follows(t: Tap, observer: Observer, spans: Span[], title: string): Promise<void> {
  await observer.waitInSync()
  t.equal(firstDifference(await observer.exported(), without(await observer.masterContent(), ...spans)), 'none', title)
}

/** What is left out, from outside: nbdinfo, and all contexts in one reply. */
async function tellsClients(t: Tap, pair: Pair): Promise<void> {
  const map = async (context: string): Promise<unknown> =>
    JSON.parse(await succeed('nbdinfo', ['--json', `--map=${context}`, pair.uri]))
  const [start, end] = swapData
  t.same(await map('understudy:replicated'), [
    { offset: 0, length: start, type: 0 },
    { offset: start, length: end - start, type: 1 },
    { offset: end, length: sizeBytes - end, type: 0 },
  ])
  t.same(await map('understudy:dirty'), [{ offset: 0, length: sizeBytes, type: 0 }], 'the standby has all of it')
  const contexts = ['base:allocation', 'understudy:replicated', 'understudy:dirty']
  for (const style of ['structured', 'extended'] as const) {
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume, { style, contexts })
    for (const flags of [0, CMD_FLAG.REQ_ONE]) {
      const request = { type: CMD.BLOCK_STATUS, offset: start - page, length: 3 * page, flags }
      const { extents } = await client.request(request)
      const told = new Map([...extents].map(([id, list]) => [client.contexts.get(id), list]))
      t.same([...told.keys()], contexts, `${style}: each once`)
      t.same(told.get('understudy:dirty'), [{ length: BigInt(3 * page), flags: 0n }])
      const [replicated, leftOut] = [{ length: BigInt(page), flags: 0n }, { length: BigInt(2 * page), flags: 1n }] // prettier-ignore
      t.same(told.get('understudy:replicated'), flags === 0 ? [replicated, leftOut] : [replicated])
    }
    client.destroy()
  }
}

t.test('a swap partition is left out, becomes a file system, and a swap area again', async t => {
  const files = scratch(t)
  const device = await disk(files)
  const rules = ['/swap', 'partition=3:/x', '/nothing'].flatMap(rule => ['--exclude-files', rule])
  const flags = [...rules, '--filter-fallback', 'all']
  const pair = await startPair(t, { device, master: flags })
  const observer = new Observer(pair, sizeBytes)
  const leftOut = async (): Promise<number | undefined> => (await observer.status())?.filter?.leftOutBytes
  await follows(t, observer, [swapData], 'its pages read as zeroes, its header arrives; all else is replicated')

  await writeAt(pair, [swapData[0], Buffer.alloc(4 * MiB, 0x52)], [swap[1] - page, Buffer.alloc(2 * page, 0x53)])
  await follows(t, observer, [swapData], 'what is swapped out stays; a write across its end is clipped')
  const saved = 4 * MiB + page
  const status = await observer.status()
  t.match(status?.filter, {
    leftOutBytes: 8 * MiB - page,
    rangeCount: 1,
    savedBytes: saved,
    rules: [{ rule: '/swap', bytes: 8 * MiB - page, savedBytes: saved }, { savedBytes: 0 }, { savedBytes: 0 }],
    replicatedWhole: [{ place: 'partition 3 (luks)', why: 'it is encrypted' }],
  })
  await metricBecomes(t, pair.metrics.master, 'understudy_filter_saved_bytes_total', saved)
  const warnings = pair.master.program.stderr + pair.master.program.stdout
  t.match(warnings, /--exclude-files 'partition=3:\/x': partition 3 \(luks\) on .*: it is encrypted: replicated whole/)
  t.match(warnings, /--exclude-files '\/nothing' matches nothing/)

  await tellsClients(t, pair)

  const verified = await pair.master.command(['verify', pair.volume])
  t.equal(verified.code, 0, verified.stderr)
  t.match(verified.stdout, `${8 * MiB - page} bytes at ${swapData[0]} are left out by the filter`)
  const explained = await pair.master.command(['filter', pair.volume, '--explain'])
  t.match(explained.stdout, /left out now, by the rules for files that are in force: 8\.0 MiB/)

  // Backwards, so that its contents come before the header that says what they are.
  const fresh = await made(files, 'mke2fs -q -F -t ext4 -b 4096 -E nodiscard')
  const pieces: [number, Buffer][] = []
  for (let at = 0; at < fresh.length; at += 64 * 1024) pieces.push([swap[0] + at, fresh.subarray(at, at + 64 * 1024)])
  const seen = { before: 0, after: 0 }
  const look = async (): Promise<void> => {
    const content = (await observer.exported()).subarray(...swap)
    if (content.equals(fresh)) seen.after++
    else if (content.subarray(page).every(byte => byte === 0) && content.includes('SWAPSPACE2')) seen.before++
    else t.fail('neither a swap area without its pages nor the file system')
  }
  await writeAt(pair, ...pieces.slice(1).reverse())
  await look()
  await writeAt(pair, [swap[0], fresh.subarray(0, 64 * 1024)])
  await observer.until('the file system is there', 15_000, async () => {
    await look()
    return seen.after > 0
  })
  t.ok(seen.before > 0, 'the cut before it was seen')
  await follows(t, observer, [], 'nothing is left out any more')
  t.equal(await leftOut(), 0)

  await writeAt(pair, [swap[0], (await made(files, 'mkswap -q')).subarray(0, page)])
  await observer.until('it is left out again', 15_000, async () => (await leftOut()) === 8 * MiB - page)
  await follows(t, observer, [swapData], 'as zeroes')

  await pair.master.kill()
  flags.length = 0
  await pair.master.restart()
  await follows(t, observer, [], 'without the rules it is replicated')
})

// It once was not until a restart: a file system with no file at all was taken for one that no rule speaks of.
t.test('a file system that has no file yet is followed: those that come are left out', async t => {
  const files = scratch(t)
  const make = (path: string, from: string): string =>
    `truncate -s ${sizeBytes} ${path}; mke2fs -q -F -t ext4 -b 4096 -U 6f1c4fd2-0bd0-4cb5-9e0b-3d4b2b9ac111 ${from} ${path}`
  const [device, later, tree] = [files.path('disk.img'), files.path('later.img'), files.path('tree')]
  const script = [
    `mkdir -p ${tree}/tmp; head -c ${MiB} /dev/zero | tr '\\0' X >${tree}/tmp/scratch`,
    make(device, ''),
    make(later, `-d ${tree}`),
  ]
  await succeed('sh', ['-ec', `PATH=$PATH:/usr/sbin; ${script.join('\n')}`])
  const pair = await startPair(t, { device, master: ['--exclude-files', '/tmp/**'] })
  const observer = new Observer(pair, sizeBytes)
  const content = readFileSync(later)
  for (let at = 0; at < sizeBytes; at += MiB) await writeAt(pair, [at, content.subarray(at, at + MiB)])
  await observer.until('its file is left out', 20_000, async () => {
    return (await observer.status())?.filter?.leftOutBytes === MiB
  })
  await observer.waitInSync()
  t.equal((await observer.exported()).indexOf('XXXX'), -1, 'as zeroes')
})

t.test('what is not sent is counted for the rule that leaves it out', async t => {
  const files = scratch(t)
  const device = await sparseFile(files.path('disk.img'), sizeBytes)
  const tree = files.path('tree')
  const letters = { swapfile: 'A', 'tmp/x': 'B', 'db/data': 'C', other: 'D' }
  for (const [name, letter] of Object.entries(letters)) {
    mkdirSync(dirname(join(tree, name)), { recursive: true })
    writeFileSync(join(tree, name), Buffer.alloc(MiB, letter))
  }
  await succeed('sh', ['-ec', `PATH=$PATH:/usr/sbin; mke2fs -q -F -t ext4 -b 4096 -d ${tree} ${device}`])
  const content = readFileSync(device)
  const places = Object.values(letters).map(letter => content.indexOf(Buffer.alloc(16 * page, letter)))
  const [swapfile = 0, temporary = 0, database = 0, other = 0] = places
  const excluded = ['/swapfile', '/tmp/**', '/*file'].flatMap(rule => ['--exclude-files', rule])
  const ranges = ['--exclude', `${swapfile}+${page}`]
  const pair = await startPair(t, { device, master: [...excluded, '--only-files', '/db/**', ...ranges] })
  const observer = new Observer(pair, sizeBytes)
  await observer.waitInSync()

  const bytes = (pages: number): Buffer => Buffer.alloc(pages * page, 'Z')
  await writeAt(pair, [swapfile, bytes(4)], [temporary, bytes(2)], [database, bytes(1)], [other, bytes(5)])
  const filter = async (): Promise<unknown> => (await observer.status())?.filter
  const metric = 'understudy_filter_rule_saved_bytes_total'
  await metricBecomes(t, pair.metrics.master, metric, 2 * page, { rule: '/tmp/**', kind: 'exclude' })
  await metricBecomes(t, pair.metrics.master, metric, 5 * page, { rule: '', kind: 'only' })
  t.match(await filter(), {
    savedBytes: 11 * page,
    savedNotChosenBytes: 5 * page,
    rules: [{ savedBytes: 3 * page }, { savedBytes: 2 * page }, { savedBytes: 0 }, { savedBytes: 0 }],
  })

  const changed = await pair.master.command(['filter', pair.volume, '--clear', '--exclude-files', '/tmp/**', '--apply'])
  t.equal(changed.code, 0, changed.stderr)
  await writeAt(pair, [swapfile, bytes(4)], [temporary, bytes(2)])
  await metricBecomes(t, pair.metrics.master, metric, 4 * page, { rule: '/tmp/**', kind: 'exclude' })
  t.match(await filter(), { savedBytes: 13 * page, rules: [{ rule: '/tmp/**', savedBytes: 4 * page }] })
})

t.test('rules that cannot be kept are refused at start in one line', async t => {
  const files = scratch(t)
  const device = await disk(files)
  const before = readFileSync(device)
  const base = ['master', '--state', files.path('m'), '--device', device, '--export', 'd']
  const cases: [string[], RegExp][] = [
    [
      ['--exclude-files', '/scratch'],
      /leave files out of partition 1 \(ext4\): .*has no journal; --filter-fallback all/,
    ],
    [['--exclude-files', 'partition=3:/x'], /partition 3 \(luks\) on .*: it is encrypted; --filter-fallback all/],
    [['--exclude-files', 'partition=4:/x'], /has no partition 4/],
    [['--exclude-files', 'swap'], /absolute path/],
    [['--filter-fallback', 'all'], /--filter-fallback: it is about rules for files/],
  ]
  for (const [flags, line] of cases) {
    const output = await command([...base, '--listen', `unix:${files.path('n.sock')}`, ...flags])
    t.equal(output.code, 2, flags.join(' '))
    t.match(output.stderr, line)
    t.equal(output.stderr.trim().split('\n').length, 1, 'one line')
  }
  t.ok(before.equals(readFileSync(device)))
})

t.test(
  'a promoted standby has zeroes in files that were left out, and so has the old master when it follows',
  async t => {
    const files = scratch(t)
    const [device, tree] = [files.path('disk.img'), files.path('tree')]
    mkdirSync(tree)
    for (const name of ['swapfile', 'data']) writeFileSync(join(tree, name), Buffer.alloc(MiB, name.toUpperCase()))
    await sparseFile(device, sizeBytes)
    await succeed('sh', ['-ec', `PATH=$PATH:/usr/sbin; mke2fs -q -F -t ext4 -b 4096 -d ${tree} ${device}`])
    const pair = await startPair(t, { device })
    await new Observer(pair, sizeBytes).waitInSync()
    const applied = await pair.master.command(['filter', pair.volume, '--exclude-files', '/swapfile', '--apply'])
    t.match(applied, { code: 0 })
    await new Observer(pair, sizeBytes).waitInSync()
    t.match(await pair.master.command(['switchover', pair.volume]), { code: 0 })
    await pair.standby.until(pair.volume, 'the old master follows', ({ state, written, applied, dirtyBytes }) => {
      return state === 'replicating' && written === applied && dirtyBytes === 0
    })
    const [theirs, ours] = [readFileSync(pair.image), readFileSync(device)]
    t.equal(firstDifference(theirs, ours), 'none', 'both are the same')
    t.equal(ours.indexOf('SWAPFILESWAPFILE'), -1, 'zeroes in the file that was left out')
    t.not(ours.indexOf('DATADATA'), -1, 'and the other as it was')
  },
)

t.test(
  'takeovers while files change hands: what is left out stays so, what another file has got is replicated',
  async t => {
    const device = scratch(t).path('disk.img')
    await sparseFile(device, sizeBytes)
    const { before, after } = await reusedBlocks(scratch(t), device)
    const pair = await startSuccession(t, { device, volumeToml: 'exclude_files = ["/tmp/**"]' })
    const observer = new Observer(pair, sizeBytes)
    const isLeftOut = (bytes: number) =>
      observer.until(`${bytes} bytes are left out`, 20_000, async () => {
        return (await observer.status())?.filter?.leftOutBytes === bytes
      })
    const { reused, others } = changedBlocks(t, before, after)
    const inTwo = async (blocks: [number, Buffer][]): Promise<void> => {
      const half = blocks.length >> 1
      await writeAt(pair, ...blocks.slice(0, half))
      t.match(await takeOver(t, pair.master, pair.config), { code: 0 })
      await writeAt(pair, ...blocks.slice(half))
    }
    await isLeftOut(14 * MiB)
    await inTwo(reused.map(([at]) => [at, Buffer.alloc(page, 'W')]))
    await isLeftOut(14 * MiB)
    await observer.waitInSync()
    const shown = await observer.exported()
    t.ok(
      reused.every(([at]) => shown.readUInt32LE(at) === 0),
      'what is written to a file that is left out is not sent',
    )
    await inTwo(others)
    await isLeftOut(0)
    await inTwo(reused)
    await observer.waitInSync()
    t.equal(firstDifference(await observer.exported(), after), 'none', 'the other file, whole')
    t.equal(firstDifference(await observer.exported(), readFileSync(device)), 'none')
  },
)
