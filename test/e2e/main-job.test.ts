// timeout: 280
/**
 * The main job with real daemons and real clients: what is written to the master is on the standby, whatever is killed
 * meanwhile. Images are compared byte for byte.
 */
import { open, stat } from 'node:fs/promises'
import t, { type Test } from 'tap'
import {
  command,
  Daemon,
  execute,
  folder,
  freeUdpPort,
  identityOf,
  inSync,
  launch,
  logged,
  metric,
  metricBecomes,
  type Pair,
  type Program,
  sameBytes,
  scratch,
  sleep,
  sparseFile,
  startPair,
  succeed,
} from '../support/daemon.js'
import { again } from '../support/again.js'

t.jobs = 1
const MiB = 1 << 20

/**
 * Requests in flight all the time; as fast as it can it takes both cores of a machine of two. Not where the server is
 * killed: a paced fio does not notice that it is gone.
 */
const paced = ['--rate_iops=4000']

/** fio over NBD with some depth; ends by itself after so many seconds, or fails when its server goes away. */
function fio(t: Test, pair: Pair, seconds: number, extra: string[] = []): Program {
  const args = ['--name=load', '--ioengine=nbd', `--uri=${pair.uri}`, '--rw=randwrite', '--bs=4k', '--iodepth=16']
  args.push(
    '--time_based',
    `--runtime=${seconds}`,
    '--randrepeat=0',
    '--norandommap',
    '--refill_buffers',
    '--output-format=terse',
  )
  return launch(t, 'fio', 'fio', [...args, ...extra], { cwd: pair.scratch.folder })
}

async function fioToEnd(t: Test, pair: Pair, seconds: number, extra: string[] = []): Promise<void> {
  const program = fio(t, pair, seconds, extra)
  const { code } = await program.gone((seconds + 30) * 1000)
  if (code !== 0) throw new Error(`fio: exit code ${code}${program.tail()}`)
}

/** Runs Python lines against the connected libnbd handle `h`. */
const nbdsh = (uri: string, script: string): Promise<string> => succeed('nbdsh', ['-u', uri, '-c', script])

const writeRandomPieces = async (
  path: string,
  pieces: number,
  pieceBytes: number,
  strideBytes: number,
): Promise<void> => {
  const file = await open(path, 'r+')
  const { randomBytes } = await import('node:crypto')
  for (let piece = 0; piece < pieces; piece += 1)
    await file.write(randomBytes(pieceBytes), 0, pieceBytes, piece * strideBytes)
  await file.close()
}

void t.test('what libnbd, qemu-io and fio write, zero and trim is on the standby, byte for byte', async t => {
  const pair = await startPair(t, { sizeBytes: 64 * MiB, onDisk: true })
  await nbdsh(
    pair.uri,
    `
import os
for i in range(64): h.pwrite(os.urandom(65536 + 512 * i), 3 * 65536 * i + 512 * i)
h.pwrite(b"fua" * 512, 1536, nbd.CMD_FLAG_FUA)
h.zero(1 << 20, 5 << 20)
h.zero(65536, 9 << 20, nbd.CMD_FLAG_NO_HOLE)
h.trim(2 << 20, 7 << 20)
h.flush()
`,
  )
  await succeed('qemu-io', [
    '-f',
    'raw',
    pair.uri,
    '-c',
    'write -P 0xa5 20M 300k',
    '-c',
    'write -z 20M 64k',
    '-c',
    'discard 21M 1M',
    '-c',
    'writev -P 7 30M 4k 8k 512',
    '-c',
    'flush',
  ])
  await fioToEnd(t, pair, 2, [...paced, '--verify=crc32c', '--do_verify=1', '--size=16M', '--offset=40M'])
  const status = await inSync(pair)
  t.equal(status.lagBytes, 0, 'no lag is left')
  t.equal(status.protected, true, 'and the volume is protected')
  await sameBytes(t, pair.device, pair.image)
  t.ok((await stat(pair.image)).blocks * 512 < 64 * MiB, 'holes stay holes')
  t.equal((await pair.master.stop()).code, 0, 'the master leaves with 0')
  t.equal((await pair.standby.stop()).code, 0, 'the standby leaves with 0')
  await sameBytes(t, pair.device, pair.image, 'still identical when both have stopped')
})

void t.test('every durability replicates under load, and its acknowledgement means what it says (G3)', async t => {
  for (const durability of ['async', 'flush', 'received', 'durable'] as const) {
    await t.test(durability, async t => {
      const pair = await startPair(t, {
        sizeBytes: 32 * MiB,
        master: ['--durability', durability, '--peer-timeout', '60s'],
      })
      await fioToEnd(t, pair, 1, [...paced, '--fsync=64'])
      // The reply has come: how far is the standby at that very moment, by what it has told the master?
      await nbdsh(pair.uri, 'h.pwrite(b"x" * 4096, 0)' + (durability === 'flush' ? '; h.flush()' : ''))
      const now = await pair.master.volume(pair.volume)
      t.equal(now.durability, durability)
      if (durability === 'received')
        t.equal(now.received, now.written, 'a write was answered when the standby had received it')
      if (durability === 'durable' || durability === 'flush')
        t.equal(now.durable, now.written, 'what was answered is durable there')
      await inSync(pair)
      await sameBytes(t, pair.device, pair.image)
    })
  }
})

void t.test('a standby that is killed again and again while clients write catches up within 10 s (G4)', async t => {
  const pair = await startPair(t, { sizeBytes: 64 * MiB, master: ['--durability', 'async'] })
  const load = fio(t, pair, 7, paced)
  for (let round = 0; round < 3; round += 1) {
    await sleep(900)
    await pair.standby.kill()
    await sleep(500)
    await pair.standby.restart()
  }
  t.equal((await load.gone()).code, 0, 'the clients saw nothing of it (G1)')
  await inSync(pair, 10_000)
  await sameBytes(t, pair.device, pair.image)
})

void t.test(
  'a master that is killed while clients write is repaired into the standby when it is back (G4)',
  async t => {
    const pair = await startPair(t, { sizeBytes: 64 * MiB, master: ['--durability', 'async'] })
    for (let round = 0; round < 3; round += 1) {
      const load = fio(t, pair, 20)
      await sleep(700 + 200 * round)
      await pair.master.kill()
      await load.gone()
      await pair.master.restart()
    }
    await fioToEnd(t, pair, 1, paced)
    await inSync(pair, 10_000)
    await sameBytes(t, pair.device, pair.image)
  },
)

void t.test('both are killed at once while clients write: equal again after they are back', async t => {
  const pair = await startPair(t, { sizeBytes: 64 * MiB })
  const load = fio(t, pair, 20)
  await sleep(1000)
  await Promise.all([pair.master.kill(), pair.standby.kill()])
  await load.gone()
  await pair.standby.restart()
  await pair.master.restart()
  await inSync(pair, 20_000)
  await sameBytes(t, pair.device, pair.image)
})

/** A small device's initial synchronisation is seen under way, and killed in it, however fast the machine is. */
const underWaySeconds = ['--resync-rate', '64MiB']

void t.test(
  'an existing device is synchronized under load; until it is complete the copy is not usable (issue: 6)',
  async t => {
    const files = scratch(t)
    const device = await sparseFile(files.path('big.img'), 768 * MiB)
    await writeRandomPieces(device, 36, 4 * MiB, 16 * MiB)
    await again(t, async attempt => {
      const pair = await startPair(attempt, {
        device,
        unsynchronized: true,
        master: ['--durability', 'async', '--peer-timeout', '120s', ...underWaySeconds],
      })
      const early = await pair.master.until(
        pair.volume,
        'progress of the initial synchronisation',
        v => (v.state === 'initial-sync' && (v.resync?.doneBytes ?? 0) > 0) || v.usable,
      )
      attempt.expects(!early.usable, 'it is seen under way')
      pair.master.program.signal('SIGSTOP')
      try {
        t.equal(early.usable, false, 'status says that the copy is not usable')
        t.equal(early.protected, false, 'and not protected')
        t.ok((early.resync?.totalBytes ?? 0) > (early.resync?.doneBytes ?? 0), 'progress is told: done of total')
        const exported = await pair.standby.command([
          'export',
          pair.volume,
          '--listen',
          `unix:${pair.scratch.path('x.sock')}`,
        ])
        t.equal(exported.code, 3, 'export is refused for safety')
        t.match(exported.stderr, /first copy is not complete|synchroni[sz]|not usable/i, 'and says why')
        t.equal(
          (await pair.standby.command(['promote', pair.volume, '--accept-loss'])).code,
          3,
          'promote is refused for safety',
        )
      } finally {
        pair.master.program.signal('SIGCONT')
      }
      await fioToEnd(t, pair, 2, ['--rate_iops=2000'])
      await inSync(pair, 60_000)
      await sameBytes(t, pair.device, pair.image)
      t.ok((await stat(pair.image)).blocks * 512 < 384 * MiB, 'holes were not sent')
    })
  },
)

void t.test('an initial synchronization goes on after the standby and the master were killed in it', async t => {
  const files = scratch(t)
  const device = await sparseFile(files.path('big.img'), 512 * MiB)
  await writeRandomPieces(device, 30, 4 * MiB, 16 * MiB)
  const pair = await startPair(t, { device, unsynchronized: true, master: underWaySeconds })
  const underWay = (): Promise<unknown> =>
    pair.master.until(pair.volume, 'under way', v => (v.resync?.doneBytes ?? 0) > 0 || v.usable)
  await underWay()
  await pair.standby.kill()
  await pair.standby.restart()
  await underWay()
  await pair.master.kill()
  await pair.master.restart()
  await inSync(pair, 60_000)
  await sameBytes(t, pair.device, pair.image)
})

void t.test(
  'a standby that stays away costs no I/O: detached to the dirty map, then resynchronised (G1, G4)',
  async t => {
    const pair = await startPair(t, {
      sizeBytes: 256 * MiB,
      master: ['--log-size', '80MiB', '--peer-timeout', '1s', '--durability', 'async'],
    })
    const reason = { reason: 'log-full' }
    const before = (await metric(pair.metrics.master, 'understudy_detaches_total', reason)) ?? 0
    await pair.standby.stop()
    await nbdsh(pair.uri, 'import os\nfor i in range(150): h.pwrite(os.urandom(1 << 20), i << 20)')
    const away = await pair.master.until(pair.volume, 'detached', v => v.state === 'detached')
    t.ok(away.dirtyBytes > 0, `the dirty map holds what is missing: ${away.dirtyBytes} bytes`)
    t.equal(away.protected, false, 'status says it is not protected')
    t.equal((await pair.master.command(['status', '--check'])).code, 1, 'status --check exits 1')
    // One detach, with its reason.
    await metricBecomes(t, pair.metrics.master, 'understudy_detaches_total', before + 1, reason)
    await fioToEnd(t, pair, 1, paced)
    await pair.standby.restart()
    await inSync(pair, 30_000)
    await sameBytes(t, pair.device, pair.image)
  },
)

void t.test('a wrong key is refused, and both sides say so in a way that can be acted on (G6)', async t => {
  const files = scratch(t)
  const [standbyId = '', masterId = '', strangerId = ''] = ['s', 'm', 'x'].map(name => identityOf(files.path(name)))
  const device = await sparseFile(files.path('d.img'), MiB)
  const address = `127.0.0.1:${await freeUdpPort()}`
  const masterArgs = (expected: string) => (): string[] => {
    const where = ['--device', device, '--export', 'disk1', '--listen', `unix:${files.path('nbd.sock')}`]
    return ['master', '--state', files.path('m'), ...where, '--standby', `${expected}@${address}`]
  }
  const standbyArgs = (allowed: string) => (): string[] => {
    return [
      'standby',
      '--state',
      files.path('s'),
      '--store',
      folder(files, 'store'),
      '--listen',
      address,
      '--allow',
      allowed,
    ]
  }

  await t.test('the standby does not know the master', async t => {
    const standby = await new Daemon(t, 'standby', files.path('s'), standbyArgs(strangerId)).start()
    const master = await new Daemon(t, 'master', files.path('m'), masterArgs(standbyId)).start()
    await master.until('disk1', 'refused', v => v.peers[0]?.session === 'refused')
    await logged(t, standby, new RegExp(masterId), 'the standby names the key that it refused')
    await logged(t, master, /refuse|not allow/i, 'the master says that it was refused')
    await Promise.all([master.stop(), standby.stop()])
  })
  await t.test('the standby is not the one that the master expects', async t => {
    const standby = await new Daemon(t, 'standby', files.path('s'), standbyArgs(masterId)).start()
    const master = await new Daemon(t, 'master', files.path('m'), masterArgs(strangerId)).start()
    await master.until('disk1', 'refused', v => v.peers[0]?.session !== 'connected')
    await logged(t, master, new RegExp(standbyId), 'the master names the key that it found')
    await logged(t, standby, /refuse|not expect|not allow|key/i, 'the standby says that it was refused')
    t.not((await master.volume('disk1')).peers[0]?.session, 'connected', 'there is no session')
    await Promise.all([master.stop(), standby.stop()])
  })
  t.equal((await stat(files.path('store'))).isDirectory(), true)
})

void t.test('1000 writes of 4 KiB move written and applied by exactly 4,096,000 bytes (issue: 8)', async t => {
  const pair = await startPair(t, { sizeBytes: 32 * MiB })
  const moves: [port: number, name: string, by: number][] = [
    [pair.metrics.master, 'understudy_written_bytes_total', 4_096_000],
    [pair.metrics.master, 'understudy_applied_bytes_total', 4_096_000],
    [pair.metrics.standby, 'understudy_applied_bytes_total', 4_096_000],
    [pair.metrics.master, 'understudy_written_records_total', 1000],
  ]
  const before = await Promise.all(moves.map(async ([port, name]) => (await metric(port, name)) ?? NaN))
  await nbdsh(pair.uri, 'for i in range(1000): h.pwrite(bytes([i % 251]) * 4096, 4096 * (i * 7 % 8000))')
  await inSync(pair)
  for (const [index, [port, name, by]] of moves.entries())
    await metricBecomes(t, port, name, (before[index] ?? NaN) + by)
  await sleep(300) // and not beyond
  const after = await Promise.all(moves.map(([port, name]) => metric(port, name)))
  t.same(after, moves.map(([, , by], index) => (before[index] ?? NaN) + by)) // prettier-ignore
})

void t.test(
  'only the partition that is replicated crosses the link; the rest reads as zeroes there (issue: 7)',
  async t => {
    const files = scratch(t)
    const device = await sparseFile(files.path('parted.img'), 64 * MiB)
    await succeed('sgdisk', ['-n', '1:2048:+20M', '-n', '2:0:+20M', '-c', '2:kept', device])
    const pair = await startPair(t, { device, master: ['--replicate', 'partition=2'] })
    const start2 = 2048 * 512 + 20 * MiB
    await nbdsh(
      pair.uri,
      `
import os
h.pwrite(os.urandom(1 << 20), ${4 * MiB})
h.pwrite(os.urandom(1 << 20), ${start2 - MiB / 2})
h.pwrite(os.urandom(3 << 20), ${start2 + 5 * MiB})
h.pwrite(os.urandom(1 << 20), ${start2 + 20 * MiB - MiB / 2})
h.flush()
`,
    )
    await inSync(pair)
    const [ours, theirs] = await Promise.all([open(pair.device), open(pair.image)])
    const read = async (file: typeof ours, from: number, bytes: number): Promise<Buffer> =>
      (await file.read(Buffer.alloc(bytes), 0, bytes, from)).buffer
    const equal2 = (await read(ours, start2, 20 * MiB)).equals(await read(theirs, start2, 20 * MiB))
    t.equal(equal2, true, 'partition 2 is identical')
    t.equal(
      (await read(theirs, 2048 * 512, 20 * MiB)).equals(Buffer.alloc(20 * MiB)),
      true,
      'partition 1 reads as zeroes on the standby',
    )
    t.equal(
      (await read(theirs, start2 + 20 * MiB, 2 * MiB)).equals(Buffer.alloc(2 * MiB)),
      true,
      'so does what follows partition 2',
    )
    await Promise.all([ours.close(), theirs.close()])
    const listing = async (path: string): Promise<unknown> =>
      (await succeed('sgdisk', ['-i', '2', path])).replace(/^Caution.*$/gm, '')
    t.equal(
      await listing(pair.image),
      await listing(pair.device),
      "the standby's partition table names the same partition",
    )
  },
)

void t.test(
  'the copy on the standby is served frozen while replication goes on, and a promoted one is the master (G2)',
  async t => {
    const pair = await startPair(t, { sizeBytes: 32 * MiB })
    await nbdsh(pair.uri, 'h.pwrite(b"A" * 65536, 0); h.flush()')
    await inSync(pair)
    const socket = pair.scratch.path('copy.sock')
    const exporter = launch(t, 'export', process.execPath, [
      ...['dist/cli/main.js', 'export', pair.volume, '--listen', `unix:${socket}`, '--state', pair.standby.state],
    ])
    await exporter.printed(/^nbd\+unix/m)
    const copyUri = `nbd+unix:///${pair.volume}?socket=${socket}`
    await nbdsh(pair.uri, 'h.pwrite(b"B" * 65536, 0); h.flush()')
    await inSync(pair)
    t.match(await nbdsh(copyUri, 'print(h.pread(4, 0))'), /AAAA/, 'the frozen copy shows the cut at which it was taken')
    t.not(
      (await execute('nbdsh', ['-u', copyUri, '-c', 'h.pwrite(b"C" * 512, 0)'])).code,
      0,
      'and it cannot be written to',
    )
    await exporter.stop()
    await sameBytes(t, pair.device, pair.image, 'replication went on meanwhile')
  },
)

void t.test('a command that finds no daemon says so in one line', async t => {
  const files = scratch(t)
  const output = await command(['status', '--state', files.path('nobody')])
  t.equal(output.code, 1)
  t.equal(output.stderr.trim().split('\n').length, 1)
  t.match(output.stderr, /no daemon/)
})
