// timeout: 60
/** --compress: fewer bytes on the link, the same copy, also when the link breaks in the middle. */
import { randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import type { VolumeStatus } from '../../src/core/status-types.js'
import { inSync, metricBecomes, type Pair, sameBytes, startPair } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'

const MiB = 2 ** 20

/** Half of every 4 KiB is random, the rest is text. */
function halfText(bytes: number): Buffer {
  const text = Buffer.from('what the master has written, the standby has as well. '.repeat(38))
  const blocks = Array.from({ length: bytes / 4096 }, () => Buffer.concat([randomBytes(2048), text.subarray(0, 2048)]))
  return Buffer.concat(blocks)
}

const rawBytes = 'understudy_link_compress_raw_bytes_total'
const sentBytes = 'understudy_link_compress_sent_bytes_total'

async function write(pair: Pair, mebibytes: number): Promise<void> {
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  const data = halfText(MiB)
  const replies = await Promise.all(Array.from({ length: mebibytes }, (_, at) => client.write(at * MiB, data)))
  t.ok(replies.every(({ error }) => error === 0))
  await client.disconnect()
}

/** In a session, and in sync, everything asked for is in force. */
const inForce = (pair: Pair, asked: string): Promise<VolumeStatus> =>
  pair.master.until(pair.volume, `compressed by ${asked}`, ({ peers }) => {
    const compression = peers[0]?.compression
    return compression?.asked === asked && compression.inForce === asked && compression.reason === ''
  })

async function endEqual(t: Test, pair: Pair): Promise<void> {
  for (const daemon of [pair.master, pair.standby]) await daemon.stop()
  await sameBytes(t, pair.device, pair.image)
}

t.test('--compress lz4: the standby is equal, and fewer bytes were sent than written (G1)', async t => {
  const pair = await startPair(t, { master: ['--compress', 'lz4', '--peer-timeout', '60s'] })
  await write(pair, 8)
  await inSync(pair)
  const raw = await metricBecomes(t, pair.metrics.master, rawBytes, value => value >= 8 * MiB)
  const sent = await metricBecomes(t, pair.metrics.master, sentBytes, value => value >= 4 * MiB)
  t.ok(sent < raw * 0.7, `${raw} bytes became ${sent}`)
  const all = await metricBecomes(t, pair.metrics.master, 'understudy_link_bytes_sent_total', value => value >= sent)
  t.ok(all < 8 * MiB, `the session sent ${all} bytes in all`)
  const { peers } = await inForce(pair, 'lz4')
  t.ok((peers[0]?.compression?.ratio ?? 0) > 1.4)
  await endEqual(t, pair)
})

t.test('--compress zstd: a link that breaks in the middle goes on at a record, and nothing is lost (G4)', async t => {
  const pair = await startPair(t, { master: ['--compress', 'zstd', '--bandwidth', '4MiB'] })
  await write(pair, 8)
  await metricBecomes(t, pair.metrics.master, rawBytes, value => value >= MiB)
  await pair.standby.kill()
  await pair.standby.start()
  await inSync(pair)
  await inForce(pair, 'zstd')
  await endEqual(t, pair)
})
