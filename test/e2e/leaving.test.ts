// timeout: 280
/**
 * Leaving well: however a daemon is made to leave, under load, 4 times each, it ends by an exit code and not by a
 * signal, its socket files are gone, and what was promised to be drained is on the standby. (An early prototype died
 * inside GnuTLS 73 of 74 times when it exited with its threads running.) UNDERSTUDY_LONG=N multiplies the times.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import {
  type Ended,
  execute,
  freeze,
  inSync,
  type Pair,
  ROOT,
  sameBytes,
  scratch,
  sleep,
  SLOWER,
  startPair,
} from '../support/daemon.js'
import type { VolumeStatus } from '../../src/core/status-types.js'
import { CMD, NbdClient } from '../support/nbd-client.js'

const TIMES = 4 * Number(process.env.UNDERSTUDY_LONG ?? 1)
const MiB = 1 << 20
const DEVICE_BYTES = 8 * MiB
const HOOK = { NODE_OPTIONS: `--import ${join(ROOT, 'test/support/leave-hook.mjs')}` }

/** Writes 4 KiB blocks all over the device, 16 in flight, until the connection ends. */
async function writeUntilGone(pair: Pair): Promise<{ replies: number }> {
  const count = { replies: 0 }
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  const lane = async (seed: number): Promise<void> => {
    const data = Buffer.alloc(4096, seed)
    for (let turn = 1; ; turn += 1) {
      data.writeUInt32LE(turn)
      const offset = BigInt(((seed * 131 + turn * 17) % (DEVICE_BYTES / 4096)) * 4096)
      await client.request({ type: CMD.WRITE, offset, length: BigInt(data.length), data })
      count.replies += 1
    }
  }
  const ended = Promise.all(Array.from({ length: 16 }, (_, seed) => lane(seed)))
  ended.catch(() => {
    client.destroy()
  })
  return count
}

async function loaded(pair: Pair): Promise<void> {
  const load = await writeUntilGone(pair)
  for (const end = performance.now() + 10_000 * SLOWER; load.replies < 200; await sleep(5)) {
    if (performance.now() > end) throw new Error(`only ${load.replies} replies in time`)
  }
}

interface Way {
  title: string
  leave(pair: Pair): Promise<Ended>
  codes: number[]
  /** The standby must have everything at the end. */
  drains: boolean
}

const bySignal =
  (signal: NodeJS.Signals) =>
  (pair: Pair): Promise<Ended> => {
    pair.master.program.signal(signal)
    return pair.master.program.gone(60_000)
  }

/** The standby is frozen while the clients go on, so that the drain cannot come to its end before the second signal. */
async function twice(pair: Pair): Promise<Ended> {
  await freeze(pair.standby)
  try {
    // What is written from here on is on the master only.
    const { written } = await pair.master.volume(pair.volume)
    const owes = (volume: VolumeStatus): boolean => BigInt(volume.written) > BigInt(written) + 32n
    await pair.master.until(pair.volume, 'has written what the frozen standby lacks', owes)
    pair.master.program.signal('SIGTERM')
    // A second one that comes before the first was taken is the same one to the kernel.
    const end = performance.now() + 10_000 * SLOWER
    while (!pair.master.program.stderr.includes('leaving: SIGTERM') && performance.now() < end) await sleep(5)
    await sleep(50)
    pair.master.program.signal('SIGTERM')
    return await pair.master.program.gone(20_000)
  } finally {
    pair.standby.program.signal('SIGCONT')
  }
}

const WAYS: Way[] = [
  { title: 'process.exit()', leave: bySignal('SIGUSR2'), codes: [7], drains: false },
  { title: 'an uncaught exception', leave: bySignal('SIGWINCH'), codes: [1], drains: true },
  { title: 'SIGTERM', leave: bySignal('SIGTERM'), codes: [0], drains: true },
  { title: 'a second SIGTERM', leave: twice, codes: [130], drains: false },
]

async function leaveOften(t: Test, way: Way): Promise<void> {
  // Neither limit comes to bear before the drain has ended, or the second signal is there.
  const limits = ['--drain-timeout', '60s', '--peer-timeout', '60s']
  const pair = await startPair(t, {
    sizeBytes: DEVICE_BYTES,
    masterEnv: HOOK,
    master: ['--durability', 'async', ...limits],
  })
  const endings: string[] = []
  let socketsLeft = 0
  for (let time = 0; time < TIMES; time += 1) {
    if (time > 0) {
      await pair.master.restart()
      await inSync(pair)
    }
    await loaded(pair)
    const { code, signal } = await way.leave(pair)
    if (signal !== null || !way.codes.includes(code ?? -1))
      endings.push(`time ${time + 1}: code ${code}, signal ${signal}`)
    if (existsSync(pair.socket) || existsSync(join(pair.master.state, 'control.sock'))) socketsLeft += 1
    if (way.drains && !(await becomesEqual(pair))) endings.push(`time ${time + 1}: not drained`)
    if (endings.length > 2) break
  }
  t.same(endings, [], `${TIMES} times: exit code ${way.codes.join(' or ')}${way.drains ? ', everything drained' : ''}`)
  t.equal(socketsLeft, 0, 'no socket file is left')
  await pair.master.restart()
  await inSync(pair)
  await sameBytes(t, pair.device, pair.image, 'the next start finds and repairs what was not drained')
}

/** The standby may still be applying what it has received; nothing more can come from the master. */
async function becomesEqual(pair: Pair): Promise<boolean> {
  const end = performance.now() + 10_000 * SLOWER
  for (;;) {
    const volume = await pair.standby.volume(pair.volume)
    if (volume.applied === volume.received && (await identical(pair))) return true
    if (performance.now() > end) return false
    await sleep(50)
  }
}

async function identical(pair: Pair): Promise<boolean> {
  const { readFile } = await import('node:fs/promises')
  const [ours, theirs] = await Promise.all([readFile(pair.device), readFile(pair.image)])
  return ours.equals(theirs)
}

for (const way of WAYS) void t.test(`a master under load leaves by ${way.title}`, t => leaveOften(t, way))

void t.test('a standby under load leaves by SIGTERM and has applied everything it had acknowledged', async t => {
  const pair = await startPair(t, { sizeBytes: DEVICE_BYTES, master: ['--durability', 'async'] })
  const load = await writeUntilGone(pair)
  const endings: string[] = []
  for (let time = 0; time < TIMES; time += 1) {
    await sleep(100)
    const { code, signal } = await pair.standby.stop()
    if (code !== 0 || signal !== null) endings.push(`time ${time + 1}: code ${code}, signal ${signal}`)
    if (existsSync(join(pair.standby.state, 'control.sock'))) endings.push(`time ${time + 1}: control.sock left`)
    await pair.standby.restart()
    await pair.master.until(pair.volume, 'a session', v => v.peers[0]?.session === 'connected')
  }
  t.same(endings, [], `${TIMES} times: exit code 0`)
  t.ok(load.replies > 0, 'clients were served meanwhile')
  await pair.master.stop()
  t.equal(await becomesEqual(pair), true, 'the images are identical')
})

void t.test('a worker thread that runs the addon is terminated, and the process lives on', async t => {
  const files = scratch(t)
  const output = await execute(process.execPath, [
    join(ROOT, 'test/support/worker-leave.mjs'),
    files.folder,
    String(TIMES),
  ])
  t.same([output.code, output.signal, output.stdout.trim()], [0, null, `terminated ${TIMES} times`], output.stderr)
})
