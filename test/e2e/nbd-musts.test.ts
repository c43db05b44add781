// timeout: 180
/**
 * Every line of "what an NBD server must get right" against the real daemon, by a strict client that takes nothing that
 * doc/proto.md does not allow. The numbers in the titles are the lines. The daemon runs with an I/O shim (io-shim.c)
 * that tells what reached one of its files, in order, and lets its device fail.
 */
import { execFileSync } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import t, { type Test } from 'tap'
import { becomes, Daemon, freeTcpPort, scratch, sleep } from '../support/daemon.js'
import { preloaded } from '../support/preload.js'
import {
  type Address,
  CHUNK,
  CMD,
  CMD_FLAG,
  ERR,
  FLAG,
  INFO,
  infoPayload,
  metaPayload,
  NbdClient,
  OPT,
  REP,
  type Reply,
  type Request,
  uint32,
} from '../support/nbd-client.js'

const MiB = 1 << 20
const TiB = 1n << 40n
const payloadMax = 32 * MiB
const oddBytes = 1_000_003

const files = scratch(t)
const diskBytes = 64 * MiB
const disk = sparse('disk.img', diskBytes)
const odd = sparse('odd.img', oddBytes)
const fixed = sparse('fixed.img', 4 * MiB)
writeFileSync(fixed, Buffer.alloc(4 * MiB, 0x5a))
const huge = hugeFile()
const loops = { sector512: loop(512), sector4096: loop(4096) }
const shim = preloaded(files, 'io-shim')
const faults = files.path('faults')
mkdirSync(faults)
const shimLog = files.path('io.log')
const unix = { path: files.path('nbd.sock') }
const tcp = { host: '127.0.0.1', port: await freeTcpPort() }

const daemon = await startDaemon()
t.teardown(() => daemon.stop())

// Line 9, with the daemon's own limits: begun now, judged by the last test.
const stallStarted = performance.now()
const stalled = Promise.all(
  ['', '\0\0', '\0\0\0\x03IHAVE', '\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x10abc'].map(async text => {
    const client = await NbdClient.open(unix)
    await client.receive(18)
    client.send(Buffer.from(text, 'latin1'))
    await client.closed
    client.destroy()
    return performance.now() - stallStarted
  }),
)

function sparse(name: string, bytes: number): string {
  writeFileSync(files.path(name), '')
  truncateSync(files.path(name), bytes)
  return files.path(name)
}

/** 16 TiB, or the little less that ext4 takes. */
function hugeFile(): { path: string; bytes: bigint } {
  for (const bytes of [16n * TiB, 16n * TiB - 4096n]) {
    try {
      return { path: sparse('huge.img', Number(bytes)), bytes }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EFBIG') throw error
    }
  }
  throw new Error('this file system takes no file of 16 TiB; set TMPDIR to one that does')
}

/** A loop device, or why there is none. */
function loop(sector: number): { device: string } | { reason: string } {
  const image = sparse(`loop${sector}.img`, 16 * MiB)
  try {
    const options = {
      encoding: 'utf8',
      stdio: 'pipe',
      env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
    } as const
    const device = execFileSync('losetup', ['--find', '--show', '--sector-size', String(sector), image], options).trim()
    t.teardown(() => void execFileSync('losetup', ['--detach', device], options))
    return { device }
  } catch (error) {
    return { reason: `needs loop devices: ${String((error as { stderr?: string }).stderr ?? error).trim()}` }
  }
}

async function startDaemon(): Promise<Daemon> {
  const volumes = [
    ...[['disk', disk], ['odd', odd], ['huge', huge.path]], // prettier-ignore
    ...Object.entries(loops).flatMap(([name, made]) => ('device' in made ? [[name, made.device]] : [])),
  ]
  const config = [
    `state = "${files.path('state')}"`,
    `[nbd]\nlisten = ["unix:${unix.path}", "${tcp.host}:${tcp.port}"]`,
    ...volumes.map(([name, device]) => `[[group]]\n[[group.volume]]\nexport = "${name}"\ndevice = "${device}"`),
    `[[group]]\n[[group.volume]]\nexport = "fixed"\ndevice = "${fixed}"\nread_only = true`,
  ]
  writeFileSync(files.path('understudy.toml'), config.join('\n') + '\n')
  // A sanitizer's runtime comes first, if there is one.
  const environment = { LD_PRELOAD: shim, IO_SHIM_FILE: disk, IO_SHIM_LOG: shimLog, IO_SHIM_FAULTS: faults }
  return new Daemon(
    t,
    'daemon',
    files.path('state'),
    () => ['run', '--config', files.path('understudy.toml')],
    environment,
  ).start()
}

/** While `body` runs, the device of 'disk' has this fault. */
async function during(fault: string, body: () => Promise<void>): Promise<void> {
  writeFileSync(`${faults}/${fault}`, '')
  try {
    await body()
  } finally {
    rmSync(`${faults}/${fault}`)
  }
}

const deviceLog = (): string[] => (existsSync(shimLog) ? readFileSync(shimLog, 'utf8').trimEnd().split('\n') : [])

/** What the device did since. */
function since(mark: number): string[] {
  return deviceLog().slice(mark)
}

type Style = NbdClient['style']
const styles: Style[] = ['simple', 'structured', 'extended']

async function attach(
  t: Test,
  name: string,
  style: Style = 'simple',
  contexts?: string[],
  address: Address = unix,
): Promise<NbdClient> {
  const client = await NbdClient.attach(address, name, { style, ...(contexts === undefined ? {} : { contexts }) })
  t.teardown(() => client.destroy())
  return client
}

async function greeted(t: Test, address: Address = unix): Promise<NbdClient> {
  const client = await NbdClient.connect(address)
  t.teardown(() => client.destroy())
  return client
}

const pattern = (bytes: number, seed = 1): Buffer => {
  const data = Buffer.allocUnsafe(bytes)
  for (let at = 0, state = seed * 2654435761; at < bytes; at++) {
    state = (Math.imul(state, 1103515245) + 12345) | 0
    data[at] = state >>> 16
  }
  return data
}

const ok = async (t: Test, reply: Promise<Reply>, title: string): Promise<Reply> => {
  const got = await reply
  t.equal(got.error, ERR.NONE, title)
  return got
}

const refused = async (t: Test, error: keyof typeof ERR, reply: Promise<Reply>, title: string): Promise<void> => {
  t.equal((await reply).error, ERR[error], `${title}: ${error}`)
}

function fileBytes(path: string, offset: number, bytes: number): Buffer {
  const data = Buffer.alloc(bytes)
  const fd = openSync(path, 'r')
  readSync(fd, data, 0, bytes, offset)
  closeSync(fd)
  return data
}

t.test('1. unknown options are answered with ERR_UNSUP; the haggling goes on, into transmission', async t => {
  for (const address of [unix, tcp]) {
    const client = await greeted(t, address)
    for (const option of [OPT.PEEK_EXPORT, OPT.STARTTLS, 99])
      t.equal(await client.ask(option, pattern(5000)), REP.ERR_UNSUP)
    await client.go('disk')
    await ok(t, client.read(0, 512), 'a read')
    await client.disconnect()
  }
})

t.test('2. ABORT is acknowledged, then the connection closes cleanly', async t => {
  for (const address of [unix, tcp]) {
    const client = await greeted(t, address)
    t.equal(await client.ask(OPT.ABORT), REP.ACK)
    t.equal((await client.receiveEnd()).reset, false)
  }
})

t.test('3. LIST names every export with the right lengths, and each can be opened', async t => {
  const client = await greeted(t)
  const names = (await client.list()).map(one => one.name)
  const expected = [
    'disk',
    'odd',
    'huge',
    'fixed',
    ...Object.entries(loops).flatMap(([name, made]) => ('device' in made ? [name] : [])),
  ]
  t.same(new Set(names), new Set(expected))
  const sizes: Record<string, bigint> = {
    disk: BigInt(diskBytes),
    odd: BigInt(oddBytes),
    huge: huge.bytes,
    fixed: BigInt(4 * MiB),
  }
  for (const name of names) t.equal((await client.info(name, [INFO.NAME])).size, sizes[name] ?? BigInt(16 * MiB), name)
  t.equal(await client.ask(OPT.GO, infoPayload('')), REP.ERR_UNKNOWN, 'no default among several')
})

t.test('4. unknown client flags drop the connection; 124 zeroes only after EXPORT_NAME without NO_ZEROES', async t => {
  const wrong = await NbdClient.open(unix)
  await wrong.greet(0x13)
  await wrong.receiveEnd()
  for (const flags of [0, 1, 2, 3]) {
    for (const how of ['exportName', 'go'] as const) {
      const client = await NbdClient.open(unix)
      await client.greet(flags)
      // The client checks the zeroes; a byte more or less would break the reply to the read.
      t.equal((await client[how]('odd')).size, BigInt(oddBytes), `${how}, client flags ${flags}`)
      await ok(t, client.read(oddBytes - 3, 3), 'the last bytes')
      await client.disconnect()
    }
  }
})

t.test('5. strings longer than 4096 bytes and lengths that lie are refused, and the stream stays in step', async t => {
  const client = await greeted(t)
  t.equal(await client.ask(OPT.GO, infoPayload('x'.repeat(4096))), REP.ERR_UNKNOWN)
  t.equal(await client.ask(OPT.GO, infoPayload('x'.repeat(4097))), REP.ERR_TOO_BIG)
  t.equal(await client.ask(OPT.GO, Buffer.concat([uint32(0xffffffff), Buffer.from('disk\0\0')])), REP.ERR_INVALID)
  t.equal(await client.ask(OPT.LIST, Buffer.from('x')), REP.ERR_INVALID)
  await client.structuredReply()
  t.equal(
    await client.ask(
      OPT.SET_META_CONTEXT,
      Buffer.concat([uint32(4), Buffer.from('disk'), uint32(1), uint32(9), Buffer.from('base:')]),
    ),
    REP.ERR_INVALID,
  )
  await client.go('disk')
  await ok(t, client.read(0, 1), 'a read')
})

t.test('6. STARTTLS is answered as unsupported, and what was negotiated stays', async t => {
  const client = await greeted(t)
  await client.structuredReply()
  t.equal(await client.ask(OPT.STARTTLS), REP.ERR_UNSUP)
  await client.go('disk')
  t.same((await client.read(0, 512)).chunks, [CHUNK.OFFSET_DATA])
})

t.test('7. a file has blocks of one byte: any offset and length is read back as written', async t => {
  const client = await attach(t, 'odd')
  t.same((await (await greeted(t)).info('odd', [INFO.BLOCK_SIZE])).block, { min: 1, preferred: 4096, max: payloadMax })
  for (const [offset, bytes] of [
    [0, 1],
    [1, 511],
    [4095, 2],
    [511, 70_001],
    [oddBytes - 1, 1],
    [oddBytes - 4099, 4099],
  ] as const) {
    // prettier-ignore
    const data = pattern(bytes, offset + 1)
    await ok(t, client.write(offset, data), `write ${bytes} at ${offset}`)
    t.ok((await client.read(offset, bytes)).data.equals(data), 'and back')
    t.ok(fileBytes(odd, offset, bytes).equals(data), 'and in the file')
  }
  t.equal(statSync(odd).size, oddBytes)
})

for (const [name, made] of Object.entries(loops)) {
  const sector = Number(name.replace('sector', ''))
  t.test(
    `7. blocks of ${sector} bytes are advertised and enforced; a request outside them changes nothing`,
    { skip: 'reason' in made && made.reason },
    async t => {
      const limits = await (await greeted(t)).info(name)
      t.equal(limits.block?.min, sector)
      const client = await attach(t, name, 'structured')
      const before = pattern(4 * sector, sector)
      await ok(t, client.write(0, before), 'aligned write')
      const junk = Buffer.alloc(sector, 0xee)
      await refused(t, 'EINVAL', client.write(1, junk), 'write at 1')
      await refused(t, 'EINVAL', client.write(0, junk.subarray(1)), 'write of a byte less')
      await refused(t, 'EINVAL', client.write(sector / 2, junk), 'write at half a sector')
      await refused(t, 'EINVAL', client.read(1, sector), 'read at 1')
      await refused(t, 'EINVAL', client.read(0, 1), 'read of 1')
      await refused(t, 'EINVAL', client.request({ type: CMD.TRIM, offset: 0, length: sector - 1 }), 'trim')
      await refused(t, 'EINVAL', client.request({ type: CMD.WRITE_ZEROES, offset: sector - 1, length: 1 }), 'zeroes')
      t.ok((await client.read(0, 4 * sector)).data.equals(before), 'nothing changed')
      await ok(t, client.request({ type: CMD.WRITE_ZEROES, offset: sector, length: sector }), 'aligned zeroes')
      before.fill(0, sector, 2 * sector)
      t.ok((await client.read(0, 4 * sector)).data.equals(before), 'and only they')
      await ok(t, client.write(16 * MiB - sector, junk, CMD_FLAG.FUA), 'the last sector')
      t.ok((await client.read(16 * MiB - sector, sector)).data.equals(junk), 'and back')
    },
  )
}

t.test('7. requests larger than the maximum are refused, their payload is skipped', async t => {
  for (const style of styles) {
    const client = await attach(t, 'huge', style)
    const most = await ok(t, client.read(0, payloadMax), `${style}: a read of the maximum`)
    t.equal(most.data.length, payloadMax)
    const error = (await client.read(0, payloadMax + 1)).error
    t.equal(error, ERR.EINVAL, `${style}: a longer read; EOVERFLOW is only for those that set DF`)
    await refused(t, 'EINVAL', client.write(0, Buffer.alloc(payloadMax + 4096)), `${style}: a longer write`)
    t.ok((await client.read(0, 4096)).data.equals(Buffer.alloc(4096)), `${style}: in step, nothing written`)
    await client.disconnect()
  }
})

t.test(
  '8. BLOCK_STATUS is EINVAL without a context: none set, cleared by a failed SET, set for another export',
  async t => {
    const status = { type: CMD.BLOCK_STATUS, offset: 0, length: 4096 }
    const without: [string, (client: NbdClient) => Promise<unknown>][] = [
    ['none set', () => Promise.resolve()],
    ['base: selects nothing', client => client.setMetaContext('disk', ['base:'])],
    ['unknown contexts', client => client.setMetaContext('disk', ['base:nosuch', 'qemu:dirty-bitmap:x'])],
    ['replaced by none', async client => {
      await client.setMetaContext('disk', ['base:allocation'])
      await client.setMetaContext('disk', [])
    }],
    ['cleared by a failure', async client => {
      await client.setMetaContext('disk', ['base:allocation'])
      t.equal(await client.ask(OPT.SET_META_CONTEXT, metaPayload('nosuch', ['base:allocation'])), REP.ERR_UNKNOWN)
    }],
    ['set for another export', client => client.setMetaContext('odd', ['base:allocation'])],
  ] // prettier-ignore
    for (const [what, prepare] of without) {
      const client = await greeted(t)
      await client.structuredReply()
      await prepare(client)
      client.contexts.clear()
      await client.go('disk')
      await refused(t, 'EINVAL', client.request(status), what)
      await client.disconnect()
    }
    const list = await (await greeted(t)).metaContexts(OPT.LIST_META_CONTEXT, 'disk', ['base:'])
    t.same([...list.contexts.keys()], ['base:allocation'], 'base: is a wildcard for LIST')
  },
)

t.test(
  '10. with structured replies a READ has a structured one, also when it fails; without, a simple one',
  async t => {
    for (const style of styles) {
      const client = await attach(t, 'disk', style)
      const chunks = (types: number[]) => (style === 'simple' ? [] : types)
      t.same((await client.read(0, 4096)).chunks, chunks([CHUNK.OFFSET_DATA]), `${style}: success`)
      const failures: [string, Request][] = [
        ['unknown flag', { type: CMD.READ, flags: 1 << 9, offset: 0, length: 512 }],
        ['flag of another command', { type: CMD.READ, flags: CMD_FLAG.FAST_ZERO, offset: 0, length: 512 }],
        ['past the end', { type: CMD.READ, offset: diskBytes - 1, length: 2 }],
        ['far past the end', { type: CMD.READ, offset: 1n << 63n, length: 512 }],
        ['wraps around', { type: CMD.READ, offset: 0xffff_ffff_ffff_ff00n, length: 512 }],
      ]
      for (const [what, request] of failures) {
        const reply = await client.request(request)
        t.equal(reply.error, ERR.EINVAL, `${style}: ${what}`)
        t.same(reply.chunks, chunks([CHUNK.ERROR]), `${style}: ${what}`)
      }
      t.same((await client.read(0, 0)).error, ERR.NONE, `${style}: a read of nothing`)
      await client.disconnect()
    }
  },
)

t.test('10. DF is offered with structured replies only, and such reads come in one piece', async t => {
  const plain = await greeted(t)
  t.equal((await plain.info('disk')).flags & FLAG.SEND_DF, 0)
  const simple = await attach(t, 'disk')
  await refused(t, 'EINVAL', simple.read(0, 512, CMD_FLAG.DF), 'DF without structured replies')
  for (const style of ['structured', 'extended'] as const) {
    const client = await attach(t, 'disk', style)
    // Data, a hole and data again.
    await client.write(0, pattern(4096))
    await client.request({ type: CMD.TRIM, offset: 4096, length: 32768 })
    await client.write(36864, pattern(4096))
    for (const bytes of [1, 4096, 65536]) {
      const reply = await ok(t, client.read(0, bytes, CMD_FLAG.DF), `${style}: ${bytes} bytes`)
      t.equal(reply.chunks.filter(type => type === CHUNK.OFFSET_DATA).length, 1)
      t.ok(reply.data.equals(fileBytes(disk, 0, bytes)))
    }
  }
})

t.test(
  '11. FLUSH waits for a flush of the device that began after every write replied to, on any connection',
  async t => {
    const writer = await attach(t, 'disk')
    const flusher = await attach(t, 'disk', 'extended')
    t.ok((await (await greeted(t)).info('disk')).flags & FLAG.CAN_MULTI_CONN)
    for (let round = 0; round < 20; round++) {
      const mark = deviceLog().length
      const offset = round * 4096
      await ok(t, writer.write(offset, pattern(4096, round)), 'write')
      await ok(t, flusher.flush(), 'flush on the other connection')
      const log = since(mark)
      const written = log.indexOf(`write ${offset} 4096`)
      t.ok(written >= 0 && log.indexOf('flush-begin', written) > written && log.at(-1) === 'flush-end', log.join(', '))
    }
  },
)

t.test(
  '11. the reply to a FLUSH does not overtake the flush, and a write that comes meanwhile does not wait for it',
  async t => {
    const client = await attach(t, 'disk')
    const mark = deviceLog().length
    let flushed: Promise<Reply> | undefined
    let write: Reply | undefined
    await during('hang-flush', async () => {
      flushed = client.flush()
      await becomes(t, 'the flush is under way', () => since(mark).includes('flush-begin'))
      void client.write(8192, pattern(4096, 3)).then(reply => (write = reply))
      await becomes(t, 'the write is answered first: replies have no order', () => write !== undefined)
      t.notOk(since(mark).includes('flush-end'))
    })
    const flush = await flushed
    t.ok(since(mark).includes('flush-end'))
    t.ok((flush?.order ?? 0) > (write?.order ?? Infinity))
  },
)

t.test('11. FUA is honoured on every command that writes', async t => {
  for (const style of styles) {
    const client = await attach(t, 'disk', style)
    const requests: [string, Request][] = [
      ['write', { type: CMD.WRITE, offset: 65536, data: pattern(4096, 7) }],
      ['zero', { type: CMD.WRITE_ZEROES, offset: 131072, length: 4096 }],
      ['zero', { type: CMD.WRITE_ZEROES, offset: 131072, length: 4096, flags: CMD_FLAG.NO_HOLE }],
      ['zero', { type: CMD.TRIM, offset: 196608, length: 8192 }],
    ]
    for (const [what, request] of requests) {
      const mark = deviceLog().length
      await ok(
        t,
        client.request({ ...request, flags: (request.flags ?? 0) | CMD_FLAG.FUA }),
        `${style}: command ${request.type} with FUA`,
      )
      const log = since(mark)
      const done = log.findIndex(line => line.startsWith(what))
      t.ok(
        done >= 0 && log.indexOf('flush-begin', done) > done && log.at(-1) === 'flush-end',
        `${style}: ${log.join(', ')}`,
      )
    }
    for (const type of [CMD.READ, CMD.CACHE])
      await ok(t, client.request({ type, flags: CMD_FLAG.FUA, length: 512 }), `FUA on ${type} does no harm`)
    await client.disconnect()
  }
})

t.test('11. a device that fails tells the client: EIO for the write, EIO for the flush', async t => {
  for (const style of styles) {
    const client = await attach(t, 'disk', style)
    await during('fail-write', () => refused(t, 'EIO', client.write(0, pattern(512)), `${style}: write`))
    await ok(t, client.write(0, pattern(512)), `${style}: the next write`)
    await during('fail-flush', () => refused(t, 'EIO', client.flush(), `${style}: flush`))
    await ok(t, client.flush(), `${style}: the next flush`)
    await client.disconnect()
  }
})

t.test(
  '12. FAST_ZERO fails with ENOTSUP when zeroing would be slow, and changes nothing; without it, never',
  async t => {
    const client = await attach(t, 'disk', 'structured')
    const data = pattern(16384, 12)
    const zero = (flags: number) => client.request({ type: CMD.WRITE_ZEROES, offset: MiB, length: 16384, flags })
    for (const flags of [CMD_FLAG.FAST_ZERO, CMD_FLAG.FAST_ZERO | CMD_FLAG.NO_HOLE]) {
      await client.write(MiB, data)
      const { error } = await zero(flags)
      t.ok(error === ERR.NONE || error === ERR.ENOTSUP)
      t.ok((await client.read(MiB, 16384)).data.equals(error === ERR.NONE ? Buffer.alloc(16384) : data))
    }
    await during('no-zero', async () => {
      for (const flags of [CMD_FLAG.FAST_ZERO, CMD_FLAG.FAST_ZERO | CMD_FLAG.NO_HOLE]) {
        await client.write(MiB, data)
        t.equal((await zero(flags)).error, ERR.ENOTSUP, `flags ${flags}`)
        t.ok((await client.read(MiB, 16384)).data.equals(data), 'nothing changed')
      }
      for (const flags of [0, CMD_FLAG.NO_HOLE, CMD_FLAG.FUA]) {
        await client.write(MiB, data)
        await ok(t, zero(flags), `flags ${flags}, slowly`)
        t.ok((await client.read(MiB, 16384)).data.equals(Buffer.alloc(16384)))
      }
    })
  },
)

t.test('12. zeroes: edges of any alignment, NO_HOLE keeps the space, the default gives it back', async t => {
  const client = await attach(t, 'disk')
  const at = 2 * MiB
  const data = pattern(MiB, 5)
  for (const [offset, length] of [
    [0, 1],
    [1, 4095],
    [4095, 4098],
    [100, 300_000],
    [0, MiB],
  ] as const) {
    // prettier-ignore
    await client.write(at, data)
    await ok(t, client.request({ type: CMD.WRITE_ZEROES, offset: at + offset, length }), `${length} at ${offset}`)
    const expected = Buffer.from(data).fill(0, offset, offset + length)
    t.ok((await client.read(at, MiB)).data.equals(expected))
  }
  const blocks = () => statSync(disk).blocks * 512
  await client.write(at, data)
  await client.flush()
  const full = blocks()
  await client.request({ type: CMD.WRITE_ZEROES, offset: at, length: MiB, flags: CMD_FLAG.NO_HOLE })
  t.ok(blocks() >= full - 65536, 'NO_HOLE keeps it')
  await client.request({ type: CMD.WRITE_ZEROES, offset: at, length: MiB })
  t.ok(blocks() <= full - MiB + 65536, 'the default gives it back')
  await client.write(at, data)
  await client.request({ type: CMD.TRIM, offset: at, length: MiB })
  t.ok((await client.read(at, MiB)).data.equals(Buffer.alloc(MiB)), 'trimmed ranges read as zeroes')
})

t.test('13. BLOCK_STATUS: one chunk, extents that are not empty, REQ_ONE exactly one', async t => {
  const at = 8 * MiB
  for (const style of ['structured', 'extended'] as const) {
    const client = await attach(t, 'disk', style, ['base:allocation'])
    await client.request({ type: CMD.TRIM, offset: at, length: MiB })
    for (const piece of [2, 3, 8]) await client.write(at + piece * 65536, pattern(65536, piece))
    const status = async (offset: number, length: number, flags = 0) => {
      const reply = await ok(t, client.request({ type: CMD.BLOCK_STATUS, offset, length, flags }), `${style}: status`)
      t.same(reply.chunks.filter(type => type !== CHUNK.NONE), [style === 'extended' ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS]) // prettier-ignore
      return [...reply.extents.values()][0]!.map(extent => [Number(extent.length), Number(extent.flags)])
    }
    const [hole, data] = [3, 0]
    t.same(await status(at, MiB), [[131072, hole], [131072, data], [262144, hole], [65536, data], [458752, hole]]) // prettier-ignore
    t.same(await status(at, MiB, CMD_FLAG.REQ_ONE), [[131072, hole]])
    t.same(await status(at + 131072, 4096, CMD_FLAG.REQ_ONE), [[4096, data]])
    t.same(await status(at + 131072 + 512, 512), [[512, data]])
    t.same(await status(at + 196608, 131072), [[65536, data], [65536, hole]]) // prettier-ignore
    await refused(
      t,
      'EINVAL',
      client.request({ type: CMD.BLOCK_STATUS, offset: diskBytes, length: 512 }),
      `${style}: past the end`,
    )
    await refused(
      t,
      'EINVAL',
      client.request({ type: CMD.BLOCK_STATUS, offset: 0, length: 512, flags: CMD_FLAG.DF }),
      `${style}: wrong flag`,
    )
    const nothing = await client.request({ type: CMD.BLOCK_STATUS, offset: 0, length: 0 })
    t.equal(nothing.error, ERR.EINVAL, `${style}: of nothing`)
    await client.disconnect()
  }
})

t.test(
  '14. DISC: what is outstanding is finished and answered, then the connection closes without a reply',
  async t => {
    for (const style of styles) {
      const client = await attach(t, 'disk', style)
      await during('slow-flush', async () => {
        const mark = deviceLog().length
        const parts = Array.from({ length: 64 }, (_, index) =>
          client.prepare({
            type: CMD.WRITE,
            offset: 4 * MiB + index * 4096,
            data: pattern(4096, index),
            flags: index === 9 ? CMD_FLAG.FUA : 0,
          }),
        )
        parts.push(
          client.prepare({ type: CMD.FLUSH }),
          client.prepare({ type: CMD.READ, offset: 4 * MiB, length: MiB }),
        )
        client.send(Buffer.concat([...parts.map(part => part.data), client.encode({ type: CMD.DISC }, 0n)]))
        const { reset } = await client.receiveEnd()
        t.notOk(reset, `${style}: a clean end`)
        const replies = await Promise.all(parts.map(part => part.reply))
        t.ok(replies.every(reply => reply.error === 0), `${style}: ${replies.length} replies`) // prettier-ignore
        t.ok(since(mark).includes('flush-end'))
      })
      for (let index = 0; index < 64; index++)
        t.ok(fileBytes(disk, 4 * MiB + index * 4096, 4096).equals(pattern(4096, index)))
    }
  },
)

t.test('15. past the end: ENOSPC for writes and zeroes, EINVAL for the rest, and the stream stays in step', async t => {
  for (const style of styles) {
    for (const [name, size] of [
      ['disk', diskBytes],
      ['odd', oddBytes],
    ] as const) {
      const client = await attach(t, name, style, style === 'simple' ? undefined : ['base:allocation'])
      const tail = pattern(1000, size)
      await ok(t, client.write(size - 1000, tail), 'the last bytes')
      for (const offset of [size - 999, size, size + 4096, 2 ** 40]) {
        await refused(
          t,
          'ENOSPC',
          client.write(offset, Buffer.alloc(1000, 0xee)),
          `${style}: write at ${offset} of ${size}`,
        )
        await refused(
          t,
          'ENOSPC',
          client.request({ type: CMD.WRITE_ZEROES, offset, length: 1000 }),
          `${style}: zeroes at ${offset}`,
        )
        await refused(t, 'EINVAL', client.read(offset, 1000), `${style}: read at ${offset}`)
        await refused(
          t,
          'EINVAL',
          client.request({ type: CMD.TRIM, offset, length: 1000 }),
          `${style}: trim at ${offset}`,
        )
        await refused(
          t,
          'EINVAL',
          client.request({ type: CMD.CACHE, offset, length: 1000 }),
          `${style}: cache at ${offset}`,
        )
      }
      await refused(
        t,
        'ENOSPC',
        client.write(0xffff_ffff_ffff_fe00n, Buffer.alloc(1024)),
        `${style}: write that wraps around`,
      )
      await refused(t, 'ENOSPC', client.write(size - 1, Buffer.alloc(payloadMax)), `${style}: 32 MiB at the last byte`)
      t.ok((await client.read(size - 1000, 1000)).data.equals(tail), 'nothing changed')
      await client.disconnect()
    }
  }
  t.equal(statSync(odd).size, oddBytes, 'the file has not grown')
})

t.test('15. unknown commands and flags get EINVAL, and the stream stays in step', async t => {
  for (const style of styles) {
    const client = await attach(t, 'disk', style)
    for (const type of [8, 9, 77, 0xffff])
      await refused(t, 'EINVAL', client.request({ type, offset: 0, length: 512 }), `${style}: command ${type}`)
    const wrong: [number, number][] = [
      [CMD.WRITE, CMD_FLAG.NO_HOLE],
      [CMD.WRITE, CMD_FLAG.DF],
      [CMD.WRITE, 1 << 15],
      [CMD.TRIM, CMD_FLAG.NO_HOLE],
      [CMD.WRITE_ZEROES, CMD_FLAG.REQ_ONE],
      [CMD.FLUSH, CMD_FLAG.DF],
      [CMD.CACHE, CMD_FLAG.FAST_ZERO],
    ]
    for (const [type, flags] of wrong) {
      const carries = type === CMD.WRITE ? { data: Buffer.alloc(512, 0xee) } : { length: type === CMD.FLUSH ? 0 : 512 }
      await refused(
        t,
        'EINVAL',
        client.request({ type, flags, offset: 5 * MiB, ...carries }),
        `${style}: command ${type} with flags ${flags}`,
      )
    }
    if (style !== 'extended') {
      const request = { type: CMD.WRITE, flags: CMD_FLAG.PAYLOAD_LEN, offset: 5 * MiB, data: Buffer.alloc(512, 0xee) }
      await refused(t, 'EINVAL', client.request(request), `${style}: PAYLOAD_LEN`)
    }
    await ok(t, client.read(0, 512), `${style}: in step`)
    await client.disconnect()
  }
})

t.test('16. a bad magic closes the connection, and no other one', async t => {
  const bystander = await attach(t, 'disk')
  const magics = [0, 0x25609514, 0x12560953, 0x67446698, 0x49484156]
  for (const style of styles) {
    for (const magic of [...magics, style === 'extended' ? 0x25609513 : 0x21e41c71]) {
      const client = await attach(t, 'disk', style)
      await ok(t, client.read(0, 512), 'a read')
      const request = client.encode({ type: CMD.WRITE, offset: 0, data: Buffer.alloc(64, 0xee) }, 1n)
      request.writeUInt32BE(magic, 0)
      const before = fileBytes(disk, 0, 64)
      client.send(request)
      await client.receiveEnd(3000)
      t.ok(fileBytes(disk, 0, 64).equals(before), `${style}: magic 0x${magic.toString(16)} writes nothing`)
    }
  }
  const garbage = await attach(t, 'disk')
  garbage.send(pattern(100_000))
  await garbage.receiveEnd(3000)
  await ok(t, bystander.read(0, 4096), 'the bystander')
})

t.test('17. with extended headers every reply is extended, and effects have 64-bit lengths', async t => {
  const client = await attach(t, 'huge', 'extended', ['base:allocation'])
  const far = 15n * TiB + 4096n
  t.ok((await (await greeted(t)).info('huge')).flags & FLAG.SEND_TRIM, 'also the largest file can be trimmed')
  // The client accepts nothing but extended replies that repeat the offset of the request.
  await ok(t, client.write(far, pattern(4096, 17), CMD_FLAG.FUA), 'write near the end')
  await ok(t, client.write(far, pattern(4096, 17)), 'write')
  t.ok((await client.read(far, 4096)).data.equals(pattern(4096, 17)))
  await ok(t, client.flush(), 'flush')
  await ok(t, client.request({ type: CMD.CACHE, offset: far, length: 4096 }), 'cache')
  const status = await ok(
    t,
    client.request({ type: CMD.BLOCK_STATUS, offset: 1n * TiB, length: 15n * TiB - 4096n }),
    'status of 15 TiB',
  )
  t.same([...status.extents.values()][0]!.slice(0, 2), [
    { length: 14n * TiB + 4096n, flags: 3n },
    { length: 4096n, flags: 0n },
  ])
  await ok(t, client.request({ type: CMD.WRITE_ZEROES, offset: 8n * TiB, length: 7n * TiB + 8192n }), 'zeroes of 7 TiB')
  t.ok((await client.read(far, 4096)).data.equals(Buffer.alloc(4096)))
  await ok(t, client.write(far, pattern(4096, 17)), 'write')
  await ok(
    t,
    client.request({ type: CMD.TRIM, offset: 4n * TiB, length: 11n * TiB + 8192n, flags: CMD_FLAG.FUA }),
    'trim of 11 TiB',
  )
  t.ok((await client.read(far, 4096)).data.equals(Buffer.alloc(4096)))
  await refused(
    t,
    'ENOSPC',
    client.request({ type: CMD.WRITE_ZEROES, offset: 4096, length: 0xffff_ffff_ffff_f000n }),
    'zeroes that wrap around',
  )
  await refused(
    t,
    'EINVAL',
    client.request({ type: CMD.TRIM, offset: 0, length: 1n << 63n }),
    'trim of half of everything',
  )
  const long = (await client.request({ type: CMD.READ, offset: 0, length: 1n << 33n })).error
  t.ok(long === ERR.EOVERFLOW || long === ERR.EINVAL, `a read of 8 GiB: error ${long}`)
  await refused(
    t,
    'EINVAL',
    client.request({ type: CMD.READ, offset: 0, data: Buffer.alloc(4096) }),
    'a payload where none belongs',
  )
  await refused(
    t,
    'EINVAL',
    client.request({ type: CMD.BLOCK_STATUS, offset: 0, data: Buffer.alloc(12) }),
    'a payload that was not offered',
  )
  await refused(t, 'EINVAL', client.request({ type: 99, offset: 12345 }), 'an unknown command')
  await ok(t, client.read(0, 512), 'in step')
  await client.disconnect()
})

t.test('17. 16 TiB: the whole volume is addressable, and costs no space', async t => {
  for (const style of styles) {
    const client = await attach(t, 'huge', style)
    const last = huge.bytes - 4096n
    await ok(t, client.write(last, pattern(4096, 16)), `${style}: the last block`)
    t.ok((await client.read(last, 4096)).data.equals(pattern(4096, 16)))
    await refused(t, 'ENOSPC', client.write(huge.bytes - 1n, Buffer.alloc(2)), `${style}: beyond it`)
    await client.disconnect()
  }
  t.ok(statSync(huge.path).blocks * 512 < 16 * MiB)
})

t.test('18. a read-only export answers EPERM to every command that writes, and stays as it was', async t => {
  for (const style of styles) {
    const client = await greeted(t)
    if (style === 'structured') await client.structuredReply()
    if (style === 'extended') await client.extendedHeaders()
    t.ok((await client.go('fixed')).flags & FLAG.READ_ONLY)
    await refused(t, 'EPERM', client.write(0, pattern(4096)), `${style}: write`)
    await refused(t, 'EPERM', client.write(0, pattern(4096), CMD_FLAG.FUA), `${style}: write with FUA`)
    await refused(t, 'EPERM', client.request({ type: CMD.TRIM, offset: 0, length: 4096 }), `${style}: trim`)
    await refused(t, 'EPERM', client.request({ type: CMD.WRITE_ZEROES, offset: 0, length: 4096 }), `${style}: zeroes`)
    await ok(t, client.flush(), `${style}: flush`)
    t.ok((await client.read(0, 4 * MiB)).data.equals(Buffer.alloc(4 * MiB, 0x5a)), `${style}: unchanged`)
    await client.disconnect()
  }
})

t.test(
  'requests in flight: hundreds at once on several connections, in pieces, all answered and all right',
  async t => {
    const clients = await Promise.all(
      styles.map((style, index) => attach(t, 'disk', style, undefined, index === 1 ? tcp : unix)),
    )
    const base = 16 * MiB
    const shadow = Buffer.alloc(12 * MiB)
    await clients[0]!.request({ type: CMD.WRITE_ZEROES, offset: base, length: shadow.length })
    let seed = 20
    const random = (below: number) => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) % below
    for (let round = 0; round < 4; round++) {
      await Promise.all(
        clients.map(async (client, index) => {
          // Each client has its own third, cut in pieces that do not overlap within a round.
          const parts = Array.from({ length: 128 }, (_, piece) => {
            const start = index * 4 * MiB + piece * 32768 + random(8192)
            const length = 1 + random(24000)
            const kind = random(4)
            if (kind < 2) {
              const data = pattern(length, start + round)
              data.copy(shadow, start)
              return client.prepare({ type: CMD.WRITE, offset: base + start, data })
            }
            if (kind === 2) shadow.fill(0, start, start + length)
            return client.prepare({ type: kind === 2 ? CMD.WRITE_ZEROES : CMD.READ, offset: base + start, length })
          })
          const all = Buffer.concat(parts.map(part => part.data))
          for (let at = 0; at < all.length;) {
            const piece = 1 + random(random(2) === 0 ? 100 : 200_000)
            client.send(all.subarray(at, at + piece))
            at += piece
            if (random(4) === 0) await new Promise(resolve => setImmediate(resolve))
          }
          const replies = await Promise.all(parts.map(part => part.reply))
          t.ok(replies.every(reply => reply.error === 0))
        }),
      )
      const data = await Promise.all(
        [0, 1, 2].map(third => clients[(third + 1) % 3]!.read(base + third * 4 * MiB, 4 * MiB)),
      )
      t.ok(Buffer.concat(data.map(reply => reply.data)).equals(shadow), `round ${round}`)
    }
    for (const client of clients) await client.disconnect()
  },
)

t.test('what a client sends ahead of the reply to GO is not lost at the hand-over, wherever it is cut', async t => {
  let seed = 7
  const random = (below: number) => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) % below
  const one = async (round: number) => {
    const client = await NbdClient.open(round % 2 === 0 ? unix : tcp)
    const data = infoPayload('disk')
    const head = Buffer.concat([uint32(3), Buffer.from('IHAVEOPT'), uint32(OPT.GO), uint32(data.length), data])
    const payload = pattern(1 + random(60_000), round)
    const write = client.prepare({ type: CMD.WRITE, offset: 32 * MiB + round * 65536, data: payload })
    const read = client.prepare({ type: CMD.READ, offset: 32 * MiB + round * 65536, length: payload.length })
    const all = Buffer.concat([head, write.data])
    const cuts = [random(head.length), head.length + random(40), head.length + random(payload.length)].sort(
      (a, b) => a - b,
    )
    for (let from = 0, index = 0; from < all.length; index++) {
      const to = cuts[index] ?? all.length
      client.send(all.subarray(from, to))
      from = to
      if (random(2) === 0) await new Promise(resolve => setImmediate(resolve))
    }
    await client.receive(18)
    await client.finishGo()
    const written = await write.reply
    client.send(read.data)
    const same = (await read.reply).data.equals(payload)
    await client.disconnect()
    return written.error === 0 && same
  }
  let wrong = 0
  for (let round = 0; round < 300; round += 10) {
    const results = await Promise.all(Array.from({ length: 10 }, (_, index) => one(round + index)))
    wrong += results.filter(right => !right).length
  }
  t.equal(wrong, 0, '300 connections')
})

t.test('a client that closes its sending side behind its requests still gets every reply', async t => {
  for (const address of [unix, tcp]) {
    const client = await NbdClient.open(address)
    client.send(uint32(3))
    client.sendOption(OPT.GO, infoPayload('disk'))
    const parts = [
      client.prepare({ type: CMD.WRITE, offset: 0, data: pattern(100_000) }),
      client.prepare({ type: CMD.FLUSH }),
      client.prepare({ type: CMD.READ, offset: MiB, length: MiB }),
    ]
    client.send(Buffer.concat(parts.map(part => part.data)))
    client.socket.end()
    await client.receive(18)
    await client.finishGo()
    for (const part of parts) await ok(t, part.reply, 'a reply')
    await client.receiveEnd()
  }
})

// Once a crash: the engine's event for a connection that had just been freed.
t.test('clients that vanish at any moment, with requests on the way, harm nobody', async t => {
  const bystander = await attach(t, 'disk', 'structured')
  const descriptors = () => readdirSync(`/proc/${daemon.program.pid}/fd`).length
  await sleep(200)
  const before = descriptors()
  let seed = 11
  const random = (below: number) => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) % below
  const one = async () => {
    const address = random(2) === 0 ? unix : tcp
    const client = await NbdClient.open(address)
    const script: (() => unknown)[] = [
      () => client.greet().catch(() => undefined),
      () => client.go('disk').catch(() => undefined),
      () => client.send(client.encode({ type: CMD.READ, offset: 0, length: 1 + random(2 * MiB) }, 1n)),
      () => client.send(client.encode({ type: CMD.WRITE, offset: 40 * MiB, data: pattern(1 + random(100_000)) }, 2n)),
      () => client.send(client.encode({ type: CMD.FLUSH }, 3n)),
      () =>
        client.send(
          client.encode({ type: CMD.WRITE_ZEROES, offset: 40 * MiB, length: 4 * MiB, flags: CMD_FLAG.FUA }, 4n),
        ),
      () => client.send(client.encode({ type: CMD.DISC }, 5n)),
    ]
    for (const step of script.slice(0, 1 + random(script.length))) await step()
    if (address === tcp && random(2) === 0) client.socket.resetAndDestroy()
    else client.destroy()
  }
  const crowd = async () => {
    for (let round = 0; round < 30; round++) await Promise.all(Array.from({ length: 10 }, one))
  }
  await Promise.all([crowd(), during('slow-flush', () => sleep(1000))])
  for (let count = 0; count < 50; count++) await bystander.write(count * 512, pattern(512, count))
  await ok(t, bystander.flush(), 'the bystander')
  t.ok(daemon.program.running)
  await becomes(t, `no more than the ${before} descriptors before`, () => descriptors() <= before)
  await bystander.disconnect()
})

t.test('clients that stall in transmission cost bounded memory and do not disturb others', async t => {
  const memory = () =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${daemon.program.pid}/status`, 'utf8'))![1]) << 10
  const before = memory()
  const lazy = await Promise.all(Array.from({ length: 4 }, () => attach(t, 'disk')))
  for (const client of lazy) {
    client.socket.pause()
    client.send(
      Buffer.concat(
        Array.from({ length: 500 }, (_, cookie) =>
          client.encode({ type: CMD.READ, offset: 0, length: MiB }, BigInt(cookie)),
        ),
      ),
    )
  }
  const half = await Promise.all(Array.from({ length: 4 }, () => attach(t, 'disk')))
  for (const client of half)
    client.send(client.encode({ type: CMD.WRITE, offset: 0, data: pattern(65536) }, 1n).subarray(0, 30_000))
  const stuck = await attach(t, 'disk')
  stuck.send(stuck.encode({ type: CMD.READ }, 1n).subarray(0, 11))
  await sleep(300)
  const other = await attach(t, 'disk')
  const started = performance.now()
  for (let count = 0; count < 100; count++) await other.write(count * 4096, pattern(4096, count))
  t.ok(performance.now() - started < 20_000, '100 writes of another client')
  t.ok(memory() - before < 128 * MiB, `${Math.round((memory() - before) / MiB)} MiB more`)
  for (const client of [...lazy, ...half, stuck]) client.destroy()
  await ok(t, other.flush(), 'and a flush when they have gone')
})

// A large reply leaves alone, and the requests behind it wait until it has: none may be forgotten there.
t.test(
  'large reads asked for at once, with other requests between them, are all answered with what is there',
  async t => {
    const base = 44 * MiB
    const client = await attach(t, 'disk')
    const before = pattern(2 * MiB, 7)
    await ok(t, client.write(base, before), 'before')
    const lengths = [MiB, 4096, 65536, 65536, 65536, 65536, 65536, 200_000, MiB, 0, 300_000, MiB, 1024, MiB]
    client.socket.pause()
    const asked = Array.from({ length: 3 }, (_, round) =>
      lengths.map((length, index) => {
        const from = (index * 70_000) % (before.length - length)
        return { from, length, round, ...client.prepare({ type: CMD.READ, offset: base + from, length }) }
      }),
    ).flat()
    const written = pattern(5000, 8)
    const write = client.prepare({ type: CMD.WRITE, offset: base + 3 * MiB, data: written })
    const data = asked.map(one => one.data)
    client.send(Buffer.concat([...data.slice(0, 20), write.data, ...data.slice(20)]))
    await sleep(100)
    client.socket.resume()
    for (const { from, length, round, reply } of asked)
      t.ok(
        (await reply).data.equals(before.subarray(from, from + length)),
        `round ${round}: ${length} bytes at ${from}`,
      )
    await ok(t, write.reply, 'the write between them')
    t.ok((await client.read(base + 3 * MiB, written.length)).data.equals(written), 'and what it wrote')
    await client.disconnect()
  },
)

// Eight clients that asked for 32 MiB and did not read kept all others from any request above 1 MiB, for ever.
t.test(
  'clients that leave large replies unread or large writes unfinished do not keep out other large requests',
  async t => {
    for (const kind of ['unread', 'unfinished']) {
      const lazy = await Promise.all(Array.from({ length: 10 }, () => attach(t, 'disk')))
      for (const client of lazy) {
        client.socket.pause()
        const request: Request =
          kind === 'unread'
            ? { type: CMD.READ, length: payloadMax }
            : { type: CMD.WRITE, data: Buffer.alloc(payloadMax) }
        const bytes = client.encode({ offset: 0, ...request }, 1n)
        client.send(kind === 'unread' ? Buffer.concat([bytes, bytes]) : bytes.subarray(0, 100_000))
      }
      await sleep(300)
      const other = await attach(t, 'disk')
      const started = performance.now()
      await ok(t, other.write(4 * MiB, pattern(4 * MiB)), `${kind}: a write`)
      t.ok((await other.read(4 * MiB, 4 * MiB)).data.equals(pattern(4 * MiB)), `${kind}: and a read`)
      t.ok(performance.now() - started < 100_000, `in ${Math.round(performance.now() - started)} ms`)
      for (const client of lazy) client.destroy()
    }
  },
)

t.test('300 clients that stall in all ways cost bounded memory, together', async t => {
  const memory = () =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${daemon.program.pid}/status`, 'utf8'))![1]) << 10
  const before = memory()
  const crowd: NbdClient[] = []
  for (let batch = 0; batch < 6; batch++) {
    crowd.push(...(await Promise.all(Array.from({ length: 50 }, () => attach(t, 'disk')))))
  }
  for (const [index, client] of crowd.entries()) {
    client.socket.pause()
    const reads = Array.from({ length: 100 }, (_, cookie) =>
      client.encode({ type: CMD.READ, offset: 0, length: 64 << 10 }, BigInt(cookie)),
    )
    const write = client.encode({ type: CMD.WRITE, offset: 0, data: Buffer.alloc(MiB) }, 1n)
    client.send(index % 8 === 0 ? Buffer.concat(reads) : write.subarray(0, MiB - 10))
  }
  await sleep(1000)
  const other = await attach(t, 'disk')
  for (let count = 0; count < 100; count++) await other.write(count * 4096, pattern(4096, count))
  // Held are 128 MiB in all, and a little a client; without a limit for all of them together it is 272 MiB.
  t.ok(memory() - before < 210 * MiB, `${Math.round((memory() - before) / MiB)} MiB more`)
  for (const client of crowd) client.destroy()
  await ok(t, other.write(0, pattern(2 * MiB)), 'and a large write when they have gone')
})

t.test('a connection that breaks off in the middle of a write writes nothing of it', async t => {
  const client = await attach(t, 'disk')
  await ok(t, client.write(60 * MiB, Buffer.alloc(MiB, 1)), 'before')
  client.send(client.encode({ type: CMD.WRITE, offset: 60 * MiB, data: Buffer.alloc(MiB, 2) }, 9n).subarray(0, 700_000))
  await sleep(50)
  client.destroy()
  const after = await attach(t, 'disk')
  t.ok((await after.read(60 * MiB, MiB)).data.equals(Buffer.alloc(MiB, 1)))
})

t.test('9. a client that stalls half-way through haggling is dropped after 10 seconds', async t => {
  for (const milliseconds of await stalled)
    t.ok(milliseconds > 8000 && milliseconds < 60_000, `${Math.round(milliseconds)} ms`)
})

t.test('many stalled and broken handshakes at once do not keep a client out', async t => {
  const crowd = await Promise.all(Array.from({ length: 300 }, () => NbdClient.open(unix)))
  for (const [index, client] of crowd.entries()) {
    if (index % 3 === 0) client.send(Buffer.from('GET / HTTP/1.1\r\n\r\n'))
  }
  const client = await attach(t, 'disk')
  await ok(t, client.read(0, 512), 'a read')
  for (const one of crowd) one.destroy()
})

t.test('the daemon ends well after all this, and its socket file is gone', async t => {
  const client = await attach(t, 'disk')
  await ok(t, client.write(0, pattern(512)), 'a last write')
  const ended = await daemon.stop()
  t.same(ended, { code: 0, signal: null })
  t.notOk(existsSync(unix.path))
  t.ok(fileBytes(disk, 0, 512).equals(pattern(512)))
})
