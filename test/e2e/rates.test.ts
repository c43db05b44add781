// timeout: 90
/** --bandwidth and --resync-rate hold within 20 %, and neither stops clients. */
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import t from 'tap'
import { again } from '../support/again.js'
import { inSync, metric, sameBytes, scratch, sleep, SLOWER, startPair } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'

const MiB = 2 ** 20

/**
 * Samples a growing figure until `over` says so; its growth a second. From one change to another: counters are written
 * ten times a second, and half of such a step would be an error of several per cent.
 */
async function rateOf(figure: () => Promise<number>, over: (latest: number) => boolean): Promise<number> {
  const changes: { at: number; value: number }[] = []
  for (const limit = performance.now() + 30_000 * SLOWER; performance.now() < limit; await sleep(10)) {
    // The figure is of some moment between asking and hearing: on a busy machine that is long.
    const asked = performance.now()
    const value = await figure()
    const sample = { value, at: (asked + performance.now()) / 2 }
    if (changes.at(-1)?.value === sample.value) continue
    changes.push(sample)
    const [, first] = changes
    if (first !== undefined && over(sample.value)) return ((sample.value - first.value) * 1000) / (sample.at - first.at)
  }
  throw new Error('the figure did not grow as far as was waited for')
}

t.test('--bandwidth is kept within 20 %, and what exceeds it waits in the log and then at the clients (G7)', t =>
  again(t, async attempt => {
    const rate = 48 * MiB
    const files = scratch(attempt)
    await writeFile(files.path('disk.img'), randomBytes(160 * MiB))
    const pair = await startPair(attempt, {
      device: files.path('disk.img'),
      master: ['--bandwidth', '48MiB', '--log-size', '80MiB', '--peer-timeout', '1s'],
      unsynchronized: true,
    })
    const sent = async (): Promise<number> =>
      (await metric(pair.metrics.master, 'understudy_link_bytes_sent_total')) ?? NaN
    const within = (found: number, what: string): void => {
      t.comment(`${what}: ${(found / MiB).toFixed(1)} MiB/s of 48`)
      attempt.expects(found > rate * 0.8 && found < rate * 1.2, `${what}: ${found / MiB} MiB/s`)
    }
    within(await rateOf(sent, bytes => bytes > 150 * MiB), 'a resynchronisation')
    await inSync(pair)

    const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
    const data = randomBytes(MiB)
    const began = performance.now()
    const before = await sent()
    const writes = Array.from({ length: 112 }, (_, i) => client.write((i % 32) * MiB, data))
    await Promise.all(writes.slice(0, 60))
    attempt.expects(performance.now() - began < 1000, 'what the log takes is not held up')
    within(await rateOf(sent, bytes => bytes > before + 100 * MiB), 'writes')
    t.ok(
      (await Promise.all(writes)).every(reply => reply.error === 0),
      'no client saw an error',
    )
    await inSync(pair)
    const waited = (await metric(pair.metrics.master, 'understudy_backpressure_seconds_total')) ?? 0
    // How long depends on how fast this machine fills the log.
    attempt.expects(waited > 0, `the clients waited: ${waited} s`)
    for (const reason of ['peer-timeout', 'log-full']) {
      const detaches = await metric(pair.metrics.master, 'understudy_detaches_total', { reason })
      attempt.expects(detaches === 0, `no detach: ${reason}`)
    }
    await client.disconnect()
    for (const daemon of [pair.master, pair.standby]) await daemon.stop()
    await sameBytes(t, pair.device, pair.image)
  }),
)

t.test('--resync-rate is kept within 20 %, and the writes of clients are not held up by it', t =>
  again(t, async attempt => {
    const rate = 12 * MiB
    const files = scratch(attempt)
    await writeFile(files.path('disk.img'), randomBytes(24 * MiB))
    const pair = await startPair(attempt, {
      device: files.path('disk.img'),
      master: ['--resync-rate', '12MiB'],
      unsynchronized: true,
    })
    const done = async (): Promise<number> => (await pair.master.volume(pair.volume)).resync?.doneBytes ?? 0
    await rateOf(done, bytes => bytes >= 3 * MiB)
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
    const data = randomBytes(MiB)
    const began = performance.now()
    const writes = Array.from({ length: 32 }, (_, i) => client.write((i % 2) * MiB, data)) // sent already: these are live
    const rateMeanwhile = rateOf(done, bytes => bytes >= 20 * MiB)
    await Promise.all(writes)
    const { written } = await pair.master.volume(pair.volume)
    await pair.master.until(pair.volume, 'durable', volume => BigInt(volume.durable) >= BigInt(written))
    const seconds = (performance.now() - began) / 1000
    attempt.expects(
      seconds < 1.3,
      `32 MiB of writes were on the standby after ${seconds} s; at the rate of the resync that takes 2.7`,
    )
    const found = await rateMeanwhile
    t.comment(`${(found / MiB).toFixed(1)} MiB/s of 12`)
    attempt.expects(found > rate * 0.8 && found < rate * 1.2, `the resynchronisation: ${found / MiB} MiB/s`)
    await inSync(pair)
    await client.disconnect()
    for (const daemon of [pair.master, pair.standby]) await daemon.stop()
    await sameBytes(t, pair.device, pair.image)
  }),
)
