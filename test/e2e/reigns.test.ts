// timeout: 200
/**
 * Who reigns: switchover and back, a master that comes back after its standby was promoted, both promoted while apart,
 * what was lost saved and served. Each refusal says what happened and ends with exit code 3; nothing is thrown away unasked (G5).
 */
import { open } from 'node:fs/promises'
import t, { type Test } from 'tap'
import {
  type Daemon,
  execute,
  inSync,
  logged,
  metricBecomes,
  type Pair,
  sleep,
  startPair,
  succeed,
} from '../support/daemon.js'

const write = (uri: string, pattern: number, at: string): Promise<string> =>
  succeed('qemu-io', ['-f', 'raw', '-c', `write -P ${pattern} ${at} 256k`, '-c', 'flush', uri])
const holds = async (path: string, pattern: number, at: string): Promise<boolean> => {
  if (path.startsWith('nbd')) {
    const { code, stdout } = await execute('qemu-io', ['-f', 'raw', '-r', '-c', `read -P ${pattern} ${at} 256k`, path])
    return code === 0 && !stdout.includes('Pattern verification failed')
  }
  const file = await open(path) // qemu-io minds the daemon's lock
  try {
    const { buffer } = await file.read(Buffer.alloc(256 << 10), 0, 256 << 10, Number(at.replace('M', '')) << 20)
    return buffer.every(byte => byte === pattern)
  } finally {
    await file.close()
  }
}

/** The other side's NBD address once it reigns. */
const second = (pair: Pair): { listen: string; uri: string } => {
  const socket = pair.scratch.path('second.sock')
  return { listen: `unix:${socket}`, uri: `nbd+unix:///${pair.volume}?socket=${socket}` }
}

/** The master wrote 9s at 8M that its standby never got, and is dead. */
async function leftBehind(t: Test): Promise<{ pair: Pair; there: ReturnType<typeof second> }> {
  const pair = await startPair(t)
  await write(pair.uri, 1, '0')
  await succeed('qemu-io', ['-f', 'raw', '-c', 'write -P 1 32M 16M', '-c', 'flush', pair.uri])
  await inSync(pair)
  await pair.standby.kill()
  await succeed('qemu-io', ['-f', 'raw', '-c', 'write -P 9 8M 256k', pair.uri])
  await pair.master.kill()
  await pair.standby.restart()
  return { pair, there: second(pair) }
}

const promote = async (t: Test, daemon: Daemon, pair: Pair, ...flags: string[]): Promise<void> => {
  const output = await daemon.command(['promote', pair.volume, ...flags])
  t.match(output, { code: 0 }, `promote ${flags.join(' ')}: ${output.stderr}`)
}

/** The first side follows the second, and both are equal. */
const follows = (pair: Pair, master: Daemon, standby: Daemon): Promise<unknown> =>
  Promise.all([
    master.until(
      pair.volume,
      'the other side follows',
      ({ role, state, written, applied, dirtyBytes }) =>
        role === 'master' && state === 'replicating' && written === applied && dirtyBytes === 0,
    ),
    standby.until(pair.volume, 'is a standby', ({ role, usable }) => role === 'standby' && usable),
  ])

void t.test('a switchover loses nothing, swaps the roles, and back again', async t => {
  const pair = await startPair(t)
  const there = second(pair)
  await write(pair.uri, 1, '0')
  await inSync(pair)
  t.match(await pair.standby.command(['switchover', pair.volume]), { code: 3, stderr: /ask the daemon of its master/ })
  const began = performance.now()
  t.match(await pair.master.command(['switchover', pair.volume]), { code: 0, stdout: /takes over/ })
  t.comment(`switchover: ${Math.round(performance.now() - began)} ms`)
  await follows(pair, pair.standby, pair.master)
  t.match(await pair.master.volume(pair.volume), { role: 'standby' })
  await promote(t, pair.standby, pair, '--listen', there.listen)
  await write(there.uri, 2, '1M')
  await follows(pair, pair.standby, pair.master)
  t.ok(await holds(pair.device, 2, '1M'), "what is written there is on the old master's device")

  await pair.master.stop()
  await pair.master.restart()
  await write(there.uri, 3, '2M')
  await follows(pair, pair.standby, pair.master)
  t.ok(await holds(pair.device, 3, '2M'), 'a restart changes no role')

  t.match(await pair.standby.command(['switchover', pair.volume]), { code: 0 })
  await follows(pair, pair.master, pair.standby)
  await write(pair.uri, 4, '3M')
  await inSync(pair)
  t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
  const generations = await Promise.all([pair.master.volume(pair.volume), pair.standby.volume(pair.volume)])
  t.equal(generations[0].generation, generations[1].generation)
})

void t.test('demote: either side can be promoted without --accept-loss, once; the other follows', async t => {
  const pair = await startPair(t)
  const there = second(pair)
  await write(pair.uri, 1, '0')
  await inSync(pair)
  t.match(await pair.master.command(['demote', pair.volume]), { code: 0, stdout: /knows it/ })
  t.match(await execute('qemu-io', ['-f', 'raw', '-c', 'read 0 512', pair.uri]), { code: 1 }, 'no client is served')
  await pair.master.until(pair.volume, 'says that nobody reigns', ({ reason }) =>
    /neither side is its master/.test(reason),
  )
  await promote(t, pair.standby, pair, '--listen', there.listen)
  await follows(pair, pair.standby, pair.master)
  await write(there.uri, 2, '1M')
  await follows(pair, pair.standby, pair.master)
  t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
  t.match(
    await pair.standby.command(['promote', pair.volume, '--accept-loss']),
    { code: 3, stderr: /promoted already/ },
    'promoted twice',
  )
})

void t.test(
  'a master that wrote more than its promoted standby had is not served, and resolve saves what only it has',
  async t => {
    const { pair, there } = await leftBehind(t)
    t.match(await pair.standby.command(['promote', pair.volume]), { code: 3, stderr: /--accept-loss/ })
    await promote(t, pair.standby, pair, '--accept-loss', '--listen', there.listen)
    await write(there.uri, 2, '4M')

    await pair.master.restart()
    const { reason } = await pair.master.until(pair.volume, 'sees it', ({ state }) => state === 'diverged')
    t.match(reason, /was promoted on the standby.*resolve/)
    t.match(
      await execute('qemu-io', ['-f', 'raw', '-c', 'read 0 512', pair.uri]),
      { code: 1 },
      'and no client is served',
    )
    t.match(await pair.master.command(['promote', pair.volume]), { code: 3 })
    t.match(await pair.master.command(['switchover', pair.volume]), { code: 3, stderr: /diverged/ })

    const resolved = await pair.master.command(['resolve', pair.volume, '--keep', 'peer'])
    t.match(resolved, { code: 0, stdout: /saved to/ })
    await follows(pair, pair.standby, pair.master)
    t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
    t.ok(await holds(pair.device, 2, '4M'))
    t.ok(await holds(pair.device, 0, '8M'), 'what only the old master had is gone there,')
    t.notMatch(pair.standby.program.stderr, /everything is compared/, 'only what either side wrote was compared')
    const least = (bytes: number): boolean => bytes >= 256 << 10
    const sent = await metricBecomes(t, pair.metrics.standby, 'understudy_link_bytes_sent_total', least)
    t.ok(sent < 2 << 20, `and ${sent} bytes were sent for what differed, 256 KiB and zeroes`)
    const socket = pair.scratch.path('lost.sock')
    t.match(await pair.master.command(['export', pair.volume, '--saved', '--listen', `unix:${socket}`, '--detach']), {
      code: 0,
    })
    t.ok(await holds(`nbd+unix:///${pair.volume}?socket=${socket}`, 9, '8M'), 'and is served from the file')
  },
)

void t.test('resolve --keep local: the promoted side saves what only it has, and follows the old master', async t => {
  const { pair, there } = await leftBehind(t)
  await promote(t, pair.standby, pair, '--accept-loss', '--listen', there.listen)
  await write(there.uri, 2, '4M')
  await pair.master.restart()
  t.match(await pair.master.command(['resolve', pair.volume, '--keep', 'local']), {
    code: 0,
    stdout: /follows this one/,
  })
  await follows(pair, pair.master, pair.standby)
  t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
  t.ok(await holds(pair.device, 9, '8M'), 'the old master keeps what it wrote')
  const socket = pair.scratch.path('lost.sock')
  const exported = ['export', pair.volume, '--saved', '--listen', `unix:${socket}`, '--detach']
  t.match(await pair.standby.command(exported), { code: 0 })
  t.ok(await holds(`nbd+unix:///${pair.volume}?socket=${socket}`, 2, '4M'), 'what the other side wrote is saved there')
  await write(pair.uri, 5, '12M')
  await inSync(pair)
})

void t.test('both promoted while apart: both say diverged, nothing is sent, and one decision ends it', async t => {
  const pair = await startPair(t)
  const there = second(pair)
  await write(pair.uri, 1, '0')
  await inSync(pair)
  t.match(await pair.master.command(['demote', pair.volume]), { code: 0 })
  await pair.standby.kill()
  await promote(t, pair.master, pair)
  await write(pair.uri, 3, '1M')
  await pair.master.kill()
  await pair.standby.restart()
  await promote(t, pair.standby, pair, '--listen', there.listen)
  await write(there.uri, 4, '2M')
  await pair.master.restart()
  await pair.master.until(pair.volume, 'sees it', ({ state }) => state === 'diverged')
  await pair.standby.until(pair.volume, 'sees it too', ({ state }) => state === 'diverged')
  t.match(await pair.standby.command(['resolve', pair.volume, '--keep', 'local']), { code: 0 })
  await follows(pair, pair.standby, pair.master)
  t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
  t.ok(await holds(pair.device, 4, '2M'))
  t.ok(await holds(pair.device, 0, '1M'))
})

void t.test('pause holds replication back, through a restart; invalidate compares everything', async t => {
  const pair = await startPair(t)
  t.match(await pair.master.command(['pause', pair.volume]), { code: 0 })
  await pair.master.until(
    pair.volume,
    'paused',
    ({ state, reason }) => state === 'detached' && /paused by/.test(reason),
  )
  await pair.master.stop()
  await pair.master.restart()
  await write(pair.uri, 1, '0')
  await sleep(300)
  t.match(await pair.master.volume(pair.volume), { state: 'detached', reason: /paused by/ })
  t.match(await pair.master.command(['resume', pair.volume]), { code: 0 })
  await inSync(pair)
  for (const side of [pair.master, pair.standby]) {
    t.match(await side.command(['invalidate', pair.volume]), { code: 0 })
    await sleep(200)
    await inSync(pair)
  }
  await logged(t, pair.master, /another copy than last time/)
  await inSync(pair)
  t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
})
