/** The benchmark's load generator (bench/load): what it counts has happened, and what it writes and reads is looked at. */
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { Daemon, execute, freeTcpPort, ROOT, scratch, sparseFile, succeed } from '../support/daemon.js'

const BLOCK = 4096
const BLOCKS = 2048

interface Found {
  requests: number
  bytes: number
  reads: number
  writes: number
  flushes: number
  errors: number
  wrong: number
  seconds: number
  latencyUs: { count: number; p50: number; p99: number; max: number }
  flushUs: { count: number }
}

await succeed('make', ['-s', '-f', 'bench/load/Makefile'], { cwd: ROOT, limitMs: 110_000 })
const files = scratch(t)
const device = await sparseFile(files.path('disk.img'), BLOCKS * BLOCK)
const port = await freeTcpPort()
const socket = files.path('nbd.sock')
const daemon = await new Daemon(t, 'daemon', files.path('state'), () => [
  ...['master', '--state', files.path('state'), '--device', device, '--export', 'disk'],
  ...['--listen', `unix:${socket}`, '--listen', `127.0.0.1:${port}`],
]).start()
t.teardown(() => daemon.stop())

async function load(args: string[], where = ['--unix', socket]): Promise<Found & { code: number | null }> {
  const output = await execute(join(ROOT, 'build/bench/load'), [...where, '--export', 'disk', ...args])
  if (!output.stdout.startsWith('{')) throw new Error(`load ${args.join(' ')}: ${output.stderr}`)
  return { ...(JSON.parse(output.stdout) as Found), code: output.code }
}

/** The blocks of the device that do not carry the stamp of their place. */
async function unstamped(): Promise<number> {
  const image = await readFile(device)
  return Array.from({ length: BLOCKS }, (_, block) => image.readBigUInt64LE(block * BLOCK)).filter(
    (stamp, block) => stamp !== BigInt(block * BLOCK),
  ).length
}

t.test('each request is answered and counted once, and its data is where it belongs', async t => {
  const once = ['--sequential', '--requests', String(BLOCKS), '--depth', '8']
  const found = await load(once)
  t.match(found, { code: 0, requests: BLOCKS, writes: BLOCKS, reads: 0, errors: 0, wrong: 0, bytes: BLOCKS * BLOCK })
  t.equal(found.latencyUs.count, BLOCKS)
  t.ok(found.latencyUs.p50 <= found.latencyUs.p99 && found.latencyUs.p99 <= found.latencyUs.max)
  t.ok(found.latencyUs.max <= found.seconds * 1e6, 'no request took longer than all of them')
  t.equal(await unstamped(), 0)
  await writeFile(device, Buffer.alloc(BLOCKS * BLOCK, 1))
  const large = ['--sequential', '--block', String(64 << 10), '--requests', String(BLOCKS / 16), '--depth', '4']
  t.match(await load(large), { code: 0, writes: BLOCKS / 16, bytes: BLOCKS * BLOCK })
  t.equal(await unstamped(), 0, 'each 4 KiB of larger blocks, too')
})

t.test('reads are verified, in blocks larger than it receives at once, beside writes and over TCP', async t => {
  const tcp = ['--tcp', `127.0.0.1:${port}`]
  const whole = ['--sequential', '--block', String(1 << 20), '--requests', '64', '--depth', '4', '--reads', '100']
  t.match(await load([...whole, '--verify'], tcp), { code: 0, reads: 64, writes: 0, wrong: 0 })
  const mixed = await load(
    ['--reads', '70', '--verify', '--depth', '32', '--requests', '3000', '--connections', '2'],
    tcp,
  )
  t.match(mixed, { code: 0, requests: 3000, errors: 0, wrong: 0 })
  t.ok(mixed.reads > 1950 && mixed.reads < 2250, `${mixed.reads} of 3000 are reads`)
})

t.test('what is in the wrong place is found', async t => {
  const image = await readFile(device)
  image.copy(image, 7 * BLOCK, 9 * BLOCK, 10 * BLOCK)
  await writeFile(device, image)
  const whole = ['--sequential', '--block', String(64 << 10), '--requests', String(BLOCKS / 16), '--reads', '100']
  t.match(await load([...whole, '--verify']), { code: 1, wrong: 1 })
  t.match(await load(whole), { code: 0, wrong: 0 }, 'if it is looked at')
})

t.test('a flush comes after so many writes, when all of them are answered', async t => {
  const found = await load(['--flush-every', '16', '--depth', '8', '--requests', '800'])
  t.match(found, { code: 0, writes: 800, flushes: 50, flushUs: { count: 50 } })
})

t.test('it ends in time, and what a server refuses is an error', async t => {
  const timed = await load(['--seconds', '0.2', '--depth', '4', '--regions', '3', '--region-bytes', '8192'])
  t.ok(timed.seconds >= 0.2 && timed.requests > 0)
  const strange = await execute(join(ROOT, 'build/bench/load'), [
    '--unix',
    socket,
    '--export',
    'none',
    '--requests',
    '1',
  ])
  t.match(strange, { code: 1, stdout: '', stderr: /^load: the export is refused: / })
  t.equal((await execute(join(ROOT, 'build/bench/load'), ['--unix', socket])).code, 2)
})
