// timeout: 180
/** Comparing both sides online: what is different is found, also below the page caches, and repaired when asked. */
import { closeSync, existsSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Test as Tap } from 'tap'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { VerifyEvent } from '../../src/daemon/control-protocol.js'
import { execute, freeze, inSync, launch, metricBecomes, type Pair, sameBytes, scratch, sleep, sparseFile, startPair, succeed } from '../support/daemon.js' // prettier-ignore

const megabyte = 1 << 20

t.test('verify finds a block that was changed behind the back of both, and says which', async t => {
  const pair = await startPair(t)
  t.match(await pair.master.command(['verify', pair.volume]), { code: 0, stdout: /64 chunks, all equal/ })
  flip(pair.image, [5])
  const found = await pair.master.command(['verify', pair.volume])
  t.match(found, { code: 1, stdout: /1048576 bytes at 5242880 differ/, stderr: /1 of 64 chunks differ/ })
  t.match((await pair.master.volume(pair.volume)).lastVerify, { chunks: 64, different: 1, repaired: 0 })
})

// The results were lost with the session, and the engine waited for them until the log was given up: "already running".
t.test('a verify whose session is lost ends, and the next one runs to its end', async t => {
  const pair = await startPair(t, { sizeBytes: 256 << 20 })
  await freeze(pair.standby)
  const request = { volume: pair.volume, repair: false, rate: '' }
  const events = new ControlClient(pair.master.state).stream<VerifyEvent>('/verify', request)
  t.match(await events.next(), { value: { done: false } }, 'it has begun')
  await sleep(200)
  await pair.standby.kill()
  await pair.standby.restart()
  await t.rejects(events.next(), { message: /verify/ }, 'it ends with an error')
  await inSync(pair)
  t.match(await pair.master.command(['verify', pair.volume]), { code: 0, stdout: /256 chunks, all equal/ })
})

const noLoops =
  process.getuid?.() !== 0
    ? 'block devices need root'
    : existsSync('/dev/loop-control')
      ? false
      : 'block devices: needs loop devices'

/** A loop device with other bytes below its page cache than in it: those of the file are changed behind its back. */
async function cachedDevice(t: Tap, file: string): Promise<string> {
  const loop = (await succeed('losetup', ['--show', '-f', '-b', '4096', file])).trim()
  t.teardown(() => execute('losetup', ['-d', loop]))
  return loop
}

t.test(
  '100 of 100 flips below the page cache, on either side, are found while clients write, and repaired',
  { skip: noLoops },
  async t => {
    const { folder } = scratch(t)
    const [ours, theirs] = [join(folder, 'm.img'), join(folder, 's.img')]
    for (const file of [ours, theirs]) await sparseFile(file, 128 * megabyte)
    await succeed('dd', ['if=/dev/urandom', `of=${ours}`, 'bs=1M', 'count=100', 'conv=notrunc', 'status=none'])
    const [device, copy] = [await cachedDevice(t, ours), await cachedDevice(t, theirs)]
    const pair = await startPair(t, { device, standby: ['--device', `disk1=${copy}`] })
    await succeed('sh', ['-c', `cat ${device} ${copy} > /dev/null`]) // both caches are warm
    t.match(await pair.master.command(['verify', pair.volume]), { code: 0 }, 'equal at first')
    const load = launch(t, 'fio', 'fio', fioArgs(pair, 20, ['--offset=104M', '--size=24M', '--rate=20M']))
    flip(
      ours,
      Array.from({ length: 50 }, (_, index) => index),
    )
    flip(
      theirs,
      Array.from({ length: 50 }, (_, index) => 50 + index),
    )
    const found = await pair.master.command(['verify', pair.volume])
    t.match(found, { code: 1, stderr: /100 of 128 chunks differ/ }, 'every one, and nothing that clients write')
    const repaired = await pair.master.command(['verify', pair.volume, '--repair'])
    t.match(repaired, { code: 0, stdout: /100 chunks repaired with the master's copy\n.*128 chunks, all equal now/ })
    t.match((await pair.master.volume(pair.volume)).lastVerify, { different: 100, repaired: 100 })
    await metricBecomes(t, pair.metrics.master, 'understudy_last_verify_repaired_chunks', 100)
    await load.kill()
    await inSync(pair)
    for (const daemon of [pair.master, pair.standby]) t.equal((await daemon.stop()).code, 0)
    await succeed('sync', [device, copy])
    await sameBytes(t, ours, theirs, 'below the caches both sides are equal')
  },
)

t.test('a repair under load leaves a legal copy, also when the standby is killed in the middle of it', async t => {
  const pair = await startPair(t, { sizeBytes: 128 * megabyte })
  const load = launch(t, 'fio', 'fio', fioArgs(pair, 10, ['--rate=20M']))
  flip(
    pair.image,
    Array.from({ length: 64 }, (_, index) => 2 * index),
  )
  const interrupted = pair.master.command(['verify', pair.volume, '--repair', '--rate', '200MiB'])
  await sleep(400)
  await pair.standby.kill()
  await pair.standby.restart()
  await interrupted
  await load.kill()
  await inSync(pair)
  t.match(await pair.master.command(['verify', pair.volume, '--repair']), { code: 0 })
  for (const daemon of [pair.master, pair.standby]) t.equal((await daemon.stop()).code, 0)
  await sameBytes(t, pair.device, pair.image)
})

t.test('--scrub-every verifies by itself and reports in metrics; the time survives a restart', async t => {
  const pair = await startPair(t, { master: ['--scrub-every', '1h'] })
  const first = await pair.master.until(pair.volume, 'scrubbed', volume => volume.lastVerify !== null)
  t.match(first.lastVerify, { chunks: 64, different: 0 })
  const seconds = Date.parse(first.lastVerify?.time ?? '') / 1000
  await metricBecomes(t, pair.metrics.master, 'understudy_last_verify_timestamp_seconds', seconds)
  await pair.master.stop()
  await pair.master.start()
  await inSync(pair)
  await sleep(1500)
  t.same((await pair.master.volume(pair.volume)).lastVerify, first.lastVerify, 'known again, and not due again')
})

function fioArgs(pair: Pair, seconds: number, extra: string[]): string[] {
  const what = [
    '--name=load',
    '--ioengine=nbd',
    `--uri=${pair.uri}`,
    '--rw=randwrite',
    '--bs=16k',
    '--iodepth=8',
    '--thread',
  ]
  return [...what, '--time_based', `--runtime=${seconds}`, ...extra]
}

/** One byte in each of these megabytes. */
function flip(path: string, megabytes: number[]): void {
  const file = openSync(path, 'r+')
  const byte = Buffer.alloc(1)
  for (const at of megabytes.map(number => number * megabyte + 777_777)) {
    readSync(file, byte, 0, 1, at)
    byte[0] = (byte[0] ?? 0) ^ 0x10
    writeSync(file, byte, 0, 1, at)
  }
  closeSync(file)
}
