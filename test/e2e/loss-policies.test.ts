// timeout: 90
/** What clients do without their standby, or with a slow one: --on-standby-loss and --max-lag. */
import { randomBytes } from 'node:crypto'
import t from 'tap'
import { again, type Attempt } from '../support/again.js'
import { freeze, inSync, metric, type Pair, sleep, startPair } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'

const MiB = 2 ** 20
const data = randomBytes(MiB)

const counted = async (pair: Pair, name: string, labels = {}): Promise<number> =>
  (await metric(pair.metrics.master, `understudy_${name}`, labels)) ?? NaN

/** Seconds that a write and a FLUSH after it take. */
async function flushed(client: NbdClient): Promise<number> {
  const began = performance.now()
  const replies = [await client.write(0, data.subarray(0, 4096)), await client.flush()]
  if (replies.some(reply => reply.error !== 0)) throw new Error('an error reached the client')
  return (performance.now() - began) / 1000
}

/** The quickest of a few: what waits for something waits each time. */
async function quickest(client: NbdClient, seconds: number): Promise<number> {
  let least = Infinity
  for (let tries = 0; tries < 5 && least >= seconds; tries++) least = Math.min(least, await flushed(client))
  return least
}

t.test('continue: a FLUSH waits for the peer timeout, and is answered when the loss is on record, as alone (G3)', t =>
  again(t, async attempt => {
    const pair = await startPair(attempt, { master: ['--peer-timeout', '1s'] })
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
    attempt.expects((await quickest(client, 0.9)) < 0.9, 'the standby is there')
    const alone = await counted(pair, 'alone_flushes_total')
    attempt.expects(alone === 0, 'and nothing was answered without it')
    await freeze(pair.standby)
    const seconds = await flushed(client)
    attempt.expects(
      (await counted(pair, 'detaches_total', { reason: 'peer-timeout' })) === 1,
      'the loss was counted by then',
    )
    attempt.expects((await counted(pair, 'alone_flushes_total')) === 1, 'and the flush as alone')
    t.equal((await pair.master.volume(pair.volume)).protected, false, 'status says that nothing is protected')
    attempt.expects(seconds > 0.7 && seconds < 2 * attempt.number, `it took ${seconds} s`)
    attempt.expects((await quickest(client, 0.5)) < 0.5, 'the next one does not wait again')
    pair.standby.program.signal('SIGCONT')
    await inSync(pair)
    await client.disconnect()
  }),
)

t.test('block:1s: clients wait for so long from the loss on, then continue, until the pair is in sync again', t =>
  again(t, async attempt => {
    const policy = ['--peer-timeout', '500ms', '--on-standby-loss', 'block:1s']
    const pair = await startPair(attempt, { master: policy })
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
    await flushed(client)
    const before = await counted(pair, 'alone_flushes_total')
    attempt.expects(before === 0, 'with the standby')
    await freeze(pair.standby)
    const seconds = await flushed(client)
    attempt.expects((await counted(pair, 'alone_flushes_total')) === 1, 'it went alone')
    attempt.expects(seconds > 1 && seconds < 3 * attempt.number, `it took ${seconds} s`)
    attempt.expects((await quickest(client, 0.5)) < 0.5, 'the next one does not wait')
    pair.standby.program.signal('SIGCONT')
    await inSync(pair)
    const alone = await counted(pair, 'alone_flushes_total')
    attempt.expects((await quickest(client, 0.9)) < 0.9, 'in sync again')
    attempt.expects((await counted(pair, 'alone_flushes_total')) === alone, 'with the standby again')
    await client.disconnect()
  }),
)

/** Of seconds: each attempt has a slower link, beside which everything else takes less. */
const longer = (attempt: Attempt): number => 2 ** (attempt.number - 1)

/** 16 MiB of writes over a link of 8 MiB/s, on which 4 MiB may be on the way. */
async function overtake(attempt: Attempt, more: string[]): Promise<{ pair: Pair; client: NbdClient; seconds: number }> {
  const bandwidth = `${8 / longer(attempt)}MiB`
  const pair = await startPair(attempt, { master: ['--bandwidth', bandwidth, '--max-lag', '4MiB', ...more] })
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  const began = performance.now()
  let most = 0
  const writes = Array.from({ length: 16 }, (_, i) => client.write(i * MiB, data))
  const all = Promise.all(writes).then(replies => replies.every(reply => reply.error === 0))
  for (let over = false; !over; most = Math.max(most, (await pair.master.volume(pair.volume)).lagBytes))
    over = await Promise.race([all.then(() => true), sleep(20).then(() => false)])
  if (!(await all)) throw new Error('a client saw an error')
  attempt.comment(`at most ${(most / MiB).toFixed(1)} MiB behind`)
  return { pair, client, seconds: (performance.now() - began) / 1000 }
}

t.test('--max-lag with block: clients wait when the standby is so far behind, and go on when it is not', t =>
  again(t, async attempt => {
    const { pair, client, seconds } = await overtake(attempt, [])
    attempt.expects(
      seconds > longer(attempt) && seconds < 2.5 * longer(attempt),
      `16 MiB less 4 at 8 MiB/s: ${seconds} s`,
    )
    attempt.expects((await counted(pair, 'backpressure_seconds_total')) > 0.7, 'counted as back-pressure')
    await inSync(pair)
    for (const reason of ['max-lag', 'peer-timeout', 'log-full'])
      attempt.expects((await counted(pair, 'detaches_total', { reason })) === 0, `no detach: ${reason}`)
    await client.disconnect()
  }),
)

t.test('--max-lag with detach: clients go on, the log is given up once, and the pair does not flap', t =>
  again(t, async attempt => {
    const { pair, client, seconds } = await overtake(attempt, ['--on-max-lag', 'detach'])
    attempt.expects(seconds < longer(attempt), `16 MiB in ${seconds} s`)
    const { reason } = await pair.master.until(pair.volume, 'detached', volume => volume.state === 'detached')
    t.match(reason, /lagged behind by more than max_lag; writes are marked in the dirty map/)
    for (const end = performance.now() + 800; performance.now() < end; await sleep(50)) await client.write(0, data)
    attempt.expects((await counted(pair, 'detaches_total', { reason: 'max-lag' })) === 1, 'one detach was counted')
    attempt.expects((await pair.master.volume(pair.volume)).state === 'detached', 'it is given time')
    await client.disconnect()
  }),
)
