// timeout: 90
/** What clients do without their standby, or with a slow one: --on-standby-loss and --max-lag. */
import { randomBytes } from 'node:crypto'
import t from 'tap'
import type { Test } from 'tap'
import { inSync, metric, type Pair, sleep, startPair } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'

const MiB = 2 ** 20
const data = randomBytes(MiB)

const counted = async (pair: Pair, name: string, labels = {}): Promise<number> =>
  (await metric(pair.metrics.master, `understudy_${name}`, labels)) ?? NaN

/** Stands still, network and disk alike. It takes the kernel a moment to stop every thread. */
async function freeze(pair: Pair): Promise<void> {
  pair.standby.program.signal('SIGSTOP')
  await sleep(100)
}

/** Seconds that a write and a FLUSH after it take. */
async function flushed(client: NbdClient): Promise<number> {
  const began = performance.now()
  const replies = [await client.write(0, data.subarray(0, 4096)), await client.flush()]
  if (replies.some(reply => reply.error !== 0)) throw new Error('an error reached the client')
  return (performance.now() - began) / 1000
}

t.test(
  'continue: a FLUSH waits for the peer timeout, and is answered when the loss is on record, as alone (G3)',
  async t => {
    const pair = await startPair(t, { master: ['--peer-timeout', '1s'] })
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
    t.ok((await flushed(client)) < 0.9, 'the standby is there')
    await freeze(pair)
    const seconds = await flushed(client)
    t.equal(await counted(pair, 'detaches_total', { reason: 'peer-timeout' }), 1, 'the loss was counted by then')
    t.equal(await counted(pair, 'alone_flushes_total'), 1, 'and the flush as alone')
    t.equal((await pair.master.volume(pair.volume)).protected, false, 'status says that nothing is protected')
    t.ok(seconds > 0.7 && seconds < 2, `it took ${seconds} s`)
    t.ok((await flushed(client)) < 0.5, 'the next one does not wait again')
    pair.standby.program.signal('SIGCONT')
    await inSync(pair)
    await client.disconnect()
  },
)

t.test(
  'block:1s: clients wait for so long from the loss on, then continue, until the pair is in sync again',
  async t => {
    const policy = ['--peer-timeout', '500ms', '--on-standby-loss', 'block:1s']
    const pair = await startPair(t, { master: policy })
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
    await flushed(client)
    await freeze(pair)
    const seconds = await flushed(client)
    t.equal(await counted(pair, 'alone_flushes_total'), 1, 'it went alone')
    t.ok(seconds > 1 && seconds < 3, `it took ${seconds} s`)
    t.ok((await flushed(client)) < 0.5, 'the next one does not wait')
    pair.standby.program.signal('SIGCONT')
    await inSync(pair)
    t.ok((await flushed(client)) < 0.9, 'in sync again')
    t.equal(await counted(pair, 'alone_flushes_total'), 2, 'with the standby')
    await client.disconnect()
  },
)

/** 16 MiB of writes over a link of 8 MiB/s, on which 4 MiB may be on the way. */
async function overtake(t: Test, more: string[]): Promise<{ pair: Pair; client: NbdClient; seconds: number }> {
  const pair = await startPair(t, { master: ['--bandwidth', '8MiB', '--max-lag', '4MiB', ...more] })
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  const began = performance.now()
  let most = 0
  const writes = Array.from({ length: 16 }, (_, i) => client.write(i * MiB, data))
  const all = Promise.all(writes).then(replies => replies.every(reply => reply.error === 0))
  for (let over = false; !over; most = Math.max(most, (await pair.master.volume(pair.volume)).lagBytes))
    over = await Promise.race([all.then(() => true), sleep(20).then(() => false)])
  t.ok(await all, 'no client saw an error')
  t.comment(`at most ${(most / MiB).toFixed(1)} MiB behind`)
  return { pair, client, seconds: (performance.now() - began) / 1000 }
}

t.test('--max-lag with block: clients wait when the standby is so far behind, and go on when it is not', async t => {
  const { pair, client, seconds } = await overtake(t, [])
  t.ok(seconds > 1 && seconds < 2.5, `16 MiB less 4 at 8 MiB/s: ${seconds} s`)
  t.ok((await counted(pair, 'backpressure_seconds_total')) > 0.7, 'counted as back-pressure')
  await inSync(pair)
  for (const reason of ['max-lag', 'peer-timeout', 'log-full'])
    t.equal(await counted(pair, 'detaches_total', { reason }), 0, `no detach: ${reason}`)
  await client.disconnect()
})

t.test('--max-lag with detach: clients go on, the log is given up once, and the pair does not flap', async t => {
  const { pair, client, seconds } = await overtake(t, ['--on-max-lag', 'detach'])
  t.ok(seconds < 1, `16 MiB in ${seconds} s`)
  const { reason } = await pair.master.until(pair.volume, 'detached', volume => volume.state === 'detached', 2000)
  t.match(reason, /lagged behind by more than max_lag; writes are marked in the dirty map/)
  for (const end = performance.now() + 800; performance.now() < end; await sleep(50)) await client.write(0, data)
  t.equal(await counted(pair, 'detaches_total', { reason: 'max-lag' }), 1)
  t.equal((await pair.master.volume(pair.volume)).state, 'detached', 'it is given time')
  await client.disconnect()
})
