// timeout: 120
/**
 * What the master's device refuses, and a kernel that refuses io_uring (docs/faults.md). The standby's disk is in
 * native/replay-faults and e2e/surroundings.
 */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs' // prettier-ignore
import t from 'tap'
import type { Test as Tap } from 'tap'
import { execute, inSync, metricBecomes, type Pair, sameBytes, scratch, sparseFile, startPair, succeed } from '../support/daemon.js' // prettier-ignore
import { ERR, NbdClient } from '../support/nbd-client.js'
import { preloaded } from '../support/preload.js'

const megabyte = 1 << 20
const files = scratch(t)

const shim = preloaded(files, 'io-shim')

class Stage {
  private constructor(
    readonly pair: Pair,
    readonly client: NbdClient,
    private readonly faults: string,
  ) {}

  static async open(t: Tap, name: string, device?: string): Promise<Stage> {
    const faults = files.path(`faults-${name}`)
    mkdirSync(faults)
    const path = device ?? (await sparseFile(files.path(`${name}.img`), 16 * megabyte))
    const masterEnv = { LD_PRELOAD: shim, IO_SHIM_FILE: path, IO_SHIM_FAULTS: faults }
    const pair = await startPair(t, { device: path, masterEnv })
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
    t.teardown(() => client.destroy())
    return new Stage(pair, client, faults)
  }

  async during<T>(fault: string, body: () => Promise<T>): Promise<T> {
    writeFileSync(`${this.faults}/${fault}`, '')
    try {
      return await body()
    } finally {
      rmSync(`${this.faults}/${fault}`)
    }
  }

  async write(at: number, value: number, bytes = 65536): Promise<number> {
    return (await this.client.write(at, Buffer.alloc(bytes, value))).error
  }

  async flush(): Promise<number> {
    return (await this.client.flush()).error
  }

  async endsEqual(t: Tap, device = this.pair.device): Promise<void> {
    await inSync(this.pair)
    this.client.destroy()
    for (const daemon of [this.pair.master, this.pair.standby]) t.equal((await daemon.stop()).code, 0)
    await sameBytes(t, device, this.pair.image)
  }
}

t.test('the device refuses a write (EIO, ENOSPC): the client hears it, and the standby ends equal', async t => {
  const stage = await Stage.open(t, 'writes')
  t.equal(await stage.write(0, 1), ERR.NONE)
  t.equal(await stage.during('fail-write', () => stage.write(megabyte, 2)), ERR.EIO)
  // A part of it has reached the device: nobody but the resynchronisation can tell which.
  t.equal(await stage.during('no-space', () => stage.write(2 * megabyte, 3)), ERR.ENOSPC)
  t.equal(await stage.flush(), ERR.NONE)
  await stage.endsEqual(t)
})

t.test('the device takes only a part of a write: it goes on where it stopped, and nobody notices', async t => {
  const stage = await Stage.open(t, 'short')
  t.equal(await stage.during('short-write', () => stage.write(megabyte, 4, 1_000_000)), ERR.NONE)
  t.ok(contents(stage.pair.device, megabyte, 1_000_000).equals(Buffer.alloc(1_000_000, 4)))
  await stage.endsEqual(t)
})

const noLoops =
  process.getuid?.() !== 0
    ? 'block devices: needs root'
    : existsSync('/dev/loop-control')
      ? false
      : 'block devices: needs loop devices'

// The kernel keeps the pages that it could not write, and calls them clean: the cache shows what the disk has lost.
t.test(
  'a failed fdatasync of the device: EIO to the client, and what it covered is read past the page cache, by all',
  { skip: noLoops },
  async t => {
    const backing = await sparseFile(files.path('backing.img'), 16 * megabyte)
    const device = (await succeed('losetup', ['--show', '-f', '-b', '4096', backing])).trim()
    t.teardown(() => execute('losetup', ['-d', device]))
    const stage = await Stage.open(t, 'flush', device)
    t.equal(await stage.write(megabyte, 5), ERR.NONE)
    await inSync(stage.pair)
    await succeed('sync', [device])
    const old = Buffer.alloc(65536, 9)
    const below = openSync(backing, 'r+')
    writeSync(below, old, 0, old.length, megabyte) // the disk has something else than the cache
    closeSync(below)
    t.equal((await stage.client.read(megabyte, 4096)).data[0], 5, 'the cache shows what was written')
    t.equal(await stage.during('fail-flush', () => stage.flush()), ERR.EIO)
    await inSync(stage.pair)
    t.ok(contents(stage.pair.image, megabyte, 65536).equals(old), 'the standby has what the disk has')
    t.ok((await stage.client.read(megabyte, 65536)).data.equals(old), 'and so do clients')
    t.equal(await stage.flush(), ERR.NONE)
    await stage.endsEqual(t, backing)
  },
)

t.test(
  'a sector the master cannot read: the standby keeps its copy, it is listed, and the step is not held up',
  async t => {
    const stage = await Stage.open(t, 'sector')
    const { master, image, metrics, volume } = stage.pair
    for (const at of [0, 1, 2]) t.equal(await stage.write(at * megabyte, 6 + at), ERR.NONE)
    await inSync(stage.pair)
    await stage.during('bad-sector', async () => {
      t.equal((await stage.client.read(megabyte, 4096)).error, ERR.EIO, 'a client that reads it hears it')
      await stage.during('fail-write', async () => {
        for (const at of [0, 1, 2]) await stage.write(at * megabyte, 20) // makes all three dirty
      })
      const status = await inSync(stage.pair)
      t.same(status.unreadable, [{ offset: megabyte, length: 65536 }], 'status lists it')
      await metricBecomes(t, metrics.master, 'understudy_unreadable_bytes', 65536)
      t.ok(contents(image, megabyte, 65536).equals(Buffer.alloc(65536, 7)), 'the standby keeps its copy')
      const verify = await master.command(['verify', volume, '--repair'])
      t.match(verify, { code: 1, stdout: /65536 bytes at 1048576 cannot be read on the master/ })
      t.match(verify.stderr, /64 KiB cannot be read on the master/)
    })
    t.match(await master.command(['verify', volume]), { code: 0 }, 'it can be read again')
    t.same((await master.volume(volume)).unreadable, [])
    await stage.endsEqual(t)
  },
)

t.test('a kernel that refuses io_uring (EPERM, as seccomp profiles do) costs nothing: the main job passes', async t => {
  const env = { LD_PRELOAD: preloaded(files, 'no-io-uring') }
  const pair = await startPair(t, { sizeBytes: 16 * megabyte, masterEnv: env, standbyEnv: env })
  for (const { program } of [pair.master, pair.standby])
    t.match(readFileSync(`/proc/${program.pid}/status`, 'utf8'), /^Seccomp:\s+2$/m, 'the filter is in force')
  await succeed('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 1M', '-c', 'write -z 512k 64k', '-c', 'flush', pair.uri])
  await inSync(pair)
  t.match(await pair.master.command(['verify', pair.volume]), { code: 0, stdout: /16 chunks, all equal/ })
  for (const daemon of [pair.master, pair.standby]) t.equal((await daemon.stop()).code, 0)
  await sameBytes(t, pair.device, pair.image)
})

function contents(path: string, offset: number, bytes: number): Buffer {
  const data = Buffer.alloc(bytes)
  const file = openSync(path, 'r')
  readSync(file, data, 0, bytes, offset)
  closeSync(file)
  return data
}
