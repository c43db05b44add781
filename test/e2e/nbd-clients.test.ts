// timeout: 180
/**
 * NBD clients that other people wrote, against the real daemon: libnbd's tools, QEMU's, fio. What they write is compared
 * with the file behind the export, byte by byte.
 */
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import t from 'tap'
import {
  Daemon,
  execute,
  freeTcpPort,
  freeUdpPort,
  sameBytes,
  scratch,
  sparseFile,
  succeed,
} from '../support/daemon.js'

const MiB = 1 << 20
const files = scratch(t)
const port = await freeTcpPort()
const socket = files.path('nbd.sock')
const images: Record<string, { path: string; bytes: number; readOnly?: boolean; group?: string; volume?: string }> = {
  'disk one': { path: files.path('disk.img'), bytes: 64 * MiB },
  target: { path: files.path('target.img'), bytes: 64 * MiB },
  odd: { path: files.path('odd.img'), bytes: 1_000_003 },
  fixed: { path: files.path('fixed.img'), bytes: 2 * MiB, readOnly: true },
  // With a standby that nobody has ever seen.
  guarded: {
    path: files.path('guarded.img'),
    bytes: 1_000_003,
    group: `standby = "${'ab'.repeat(32)}@127.0.0.1:${await freeUdpPort()}"`,
    volume: 'exclude = ["1000-300000"]',
  },
}
for (const { path, bytes } of Object.values(images)) await sparseFile(path, bytes)
const config = Object.entries(images).map(
  ([name, { path, readOnly = false, group = '', volume = '' }]) =>
    `[[group]]\n${group}\n[[group.volume]]\nexport = "${name}"\ndevice = "${path}"\nread_only = ${readOnly}\n${volume}`,
)
writeFileSync(
  files.path('understudy.toml'),
  `state = "${files.path('state')}"\n[nbd]\nlisten = ["unix:${socket}", "127.0.0.1:${port}"]\n${config.join('\n')}\n`,
)
const daemon = await new Daemon(t, 'daemon', files.path('state'), () => [
  'run',
  '--config',
  files.path('understudy.toml'),
]).start()
t.teardown(() => daemon.stop())

const uri = (name: string) => `nbd+unix:///${encodeURIComponent(name)}?socket=${socket}`
const tcpUri = (name: string) => `nbd://127.0.0.1:${port}/${encodeURIComponent(name)}`
const image = (name: string) => images[name]!.path

/** A MiB of data, two MiB of hole, and so on. */
function sparseData(path: string, bytes: number): void {
  const file = openSync(path, 'w')
  for (let at = 0; at < bytes; at += 3 * MiB) writeSync(file, randomBytes(Math.min(MiB, bytes - at)), 0, undefined, at)
  ftruncateSync(file, bytes)
  closeSync(file)
}

/** Debian's bindings belong to Debian's python. */
const nbdsh = (name: string, ...commands: string[]) =>
  succeed('/usr/bin/python3', ['-m', 'nbd', '-u', uri(name), ...commands.flatMap(line => ['-c', line])])

t.test('nbdinfo: the list of exports, one export, its block sizes and what it can do', async t => {
  const list = JSON.parse(await succeed('nbdinfo', ['--json', '--list', `nbd+unix:///?socket=${socket}`])) as {
    exports: { 'export-name': string; 'export-size': number }[]
  }
  t.same(
    new Map(list.exports.map(one => [one['export-name'], one['export-size']])),
    new Map(Object.entries(images).map(([name, { bytes }]) => [name, bytes])),
  )
  for (const address of [uri('disk one'), tcpUri('disk one')]) {
    const info = JSON.parse(await succeed('nbdinfo', ['--json', address])) as {
      protocol: string
      structured: boolean
      exports: Record<string, unknown>[]
    }
    t.match(info, { protocol: 'newstyle-fixed', structured: true })
    t.match(info.exports[0], {
      'export-name': 'disk one',
      contexts: ['base:allocation'],
      is_read_only: false,
      can_multi_conn: true,
      can_fua: true,
      can_flush: true,
      can_trim: true,
      can_zero: true,
      can_fast_zero: true,
      can_df: true,
      can_cache: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MiB,
      'export-size': 64 * MiB,
    })
  }
  t.equal((await execute('nbdinfo', ['--is', 'read-only', uri('fixed')])).code, 0)
  t.equal((await execute('nbdinfo', ['--is', 'read-only', uri('odd')])).code, 2)
  t.equal((await succeed('nbdinfo', ['--size', uri('odd')])).trim(), '1000003')
  const missing = await execute('nbdinfo', [uri('nosuch')])
  t.not(missing.code, 0)
  t.match(missing.stderr, /nosuch/)
})

t.test('nbdinfo --map: data and holes are told as they are', async t => {
  await nbdsh('target', 'h.zero(64 << 20, 0)', 'h.pwrite(b"x" * 65536, 1 << 20)', 'h.flush()')
  const map = JSON.parse(await succeed('nbdinfo', ['--json', '--map', uri('target')])) as {
    offset: number
    length: number
    type: number
  }[]
  t.same(map, [
    { offset: 0, length: MiB, type: 3, description: 'hole,zero' },
    { offset: MiB, length: 65536, type: 0, description: 'data' },
    { offset: MiB + 65536, length: 63 * MiB - 65536, type: 3, description: 'hole,zero' },
  ])
})

t.test('nbdinfo --map=understudy:...: what is left out, and what the standby may lack', async t => {
  const map = async (context: string): Promise<unknown> =>
    JSON.parse(await succeed('nbdinfo', ['--json', `--map=${context}`, uri('guarded')]))
  const [region, bytes] = [65536, 1_000_003]
  t.same(await map('understudy:replicated'), [
    { offset: 0, length: 1000, type: 0 },
    { offset: 1000, length: 299_000, type: 1 },
    { offset: 300_000, length: bytes - 300_000, type: 0 },
  ])
  await nbdsh(
    'guarded',
    'h.pwrite(b"x" * 100, 2 * 65536)',
    'h.pwrite(b"x" * 100, 7 * 65536)',
    'h.pwrite(b"x", 1000002)',
  )
  t.same(
    await map('understudy:dirty'),
    [
      { offset: 0, length: 7 * region, type: 0 },
      { offset: 7 * region, length: region, type: 1 },
      { offset: 8 * region, length: 7 * region, type: 0 },
      { offset: 15 * region, length: bytes - 15 * region, type: 1 },
    ],
    'in regions of 64 KiB; not what is left out',
  )
  const { exports } = JSON.parse(await succeed('nbdinfo', ['--json', uri('guarded')])) as { exports: unknown[] }
  t.match(exports, [{ contexts: ['base:allocation', 'understudy:replicated', 'understudy:dirty'] }])
})

t.test('nbdcopy: into the export and out of it, on several connections; holes stay holes', async t => {
  const source = files.path('source.img')
  sparseData(source, 64 * MiB)
  await succeed('nbdcopy', ['--flush', '--connections=4', source, uri('disk one')])
  await sameBytes(t, source, image('disk one'), 'what was copied in is in the file')
  const back = files.path('back.img')
  await succeed('nbdcopy', [tcpUri('disk one'), back])
  await sameBytes(t, source, back, 'and comes back')
  await succeed('nbdcopy', ['--flush', uri('disk one'), uri('target')])
  await sameBytes(t, source, image('target'), 'from one export to the other')
  const small = files.path('odd-source.img')
  writeFileSync(small, randomBytes(1_000_003))
  await succeed('nbdcopy', ['--flush', small, uri('odd')])
  await sameBytes(t, small, image('odd'), 'an odd size')
  const refused = await execute('nbdcopy', [small, uri('fixed')])
  t.not(refused.code, 0, 'a read-only export is refused')
})

t.test('nbdsh: writes, zeroes, trims, cache, FUA, block status, many requests in flight', async t => {
  const output = await nbdsh(
    'target',
    [
      'import os',
      'data = os.urandom(300000)',
      'h.pwrite(data, 12345, nbd.CMD_FLAG_FUA)',
      'assert h.pread(300000, 12345) == data',
      'h.zero(100000, 20001)',
      'h.zero(4096, 200000, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)',
      'h.trim(65536, 8 << 20, nbd.CMD_FLAG_FUA)',
      'h.cache(1 << 20, 0)',
      'h.flush()',
      'want = bytearray(data); want[20001-12345:120001-12345] = bytes(100000); want[200000-12345:204096-12345] = bytes(4096)',
      'assert h.pread(300000, 12345) == want',
      'assert h.pread_structured(65536, 0, lambda *a: None, nbd.CMD_FLAG_DF)',
      'cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i % 256]) * 4096), (32 << 20) + 4096 * i) for i in range(256)]',
      'while h.aio_in_flight() > 0: h.poll(1000)',
      'assert all(h.aio_command_completed(cookie) for cookie in cookies)',
      'assert h.pread(256 * 4096, 32 << 20) == b"".join(bytes([i % 256]) * 4096 for i in range(256))',
      'h.shutdown()',
      'print("all right")',
    ].join('\n'),
  )
  t.match(output, /all right/)
})

t.test('nbdsh: errors come as the protocol says, with structured replies and without', async t => {
  for (const structured of ['True', 'False']) {
    const output = await succeed('/usr/bin/python3', [
      '-m',
      'nbd',
      '-c',
      [
        'import errno',
        `h.set_request_structured_replies(${structured}); h.set_strict_mode(0)`,
        `h.connect_uri("${uri('fixed')}")`,
        'def error(call, *args):',
        '    try: call(*args)',
        '    except nbd.Error as e: return e.errno',
        'size = h.get_size()',
        'print([error(h.pwrite, b"x" * 512, 0), error(h.zero, 512, 0), error(h.trim, 512, 0), error(h.pread, 512, size)])',
        `w = nbd.NBD(); w.set_strict_mode(0); w.connect_uri("${uri('odd')}")`,
        'print([error(w.pwrite, b"x" * 4, 1000000), error(w.zero, 4, 1000000), error(w.trim, 4, 1000000), error(w.pread, 4, 1000000)])',
      ].join('\n'),
    ])
    t.equal(output, "['EPERM', 'EPERM', 'EPERM', 'EINVAL']\n['ENOSPC', 'ENOSPC', 'EINVAL', 'EINVAL']\n", structured)
  }
})

t.test('qemu-img and qemu-io: info, convert, map, compare, writes with FUA, zeroes and discards', async t => {
  const info = JSON.parse(await succeed('qemu-img', ['info', '--output=json', uri('disk one')])) as Record<
    string,
    unknown
  >
  t.equal(info['virtual-size'], 64 * MiB)
  const source = files.path('qemu.img')
  sparseData(source, 64 * MiB)
  await succeed('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, uri('disk one')])
  await succeed('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, uri('disk one')])
  await succeed('qemu-img', ['map', '--output=json', uri('disk one')])
  const script = ['write -P 0x11 1M 64k', 'write -f -P 0x22 1234567 4321', 'write -z 2M 1M', 'write -z -u 4M 1M', 'discard 8M 1M', 'flush'] // prettier-ignore
  const io = (commands: string[]) =>
    succeed('qemu-io', ['-f', 'raw', ...commands.flatMap(line => ['-c', line]), uri('disk one')])
  await io(script)
  const output = await io([
    'read -P 0x11 1M 64k',
    'read -P 0x22 1234567 4321',
    'read -P 0 2M 1M',
    'read -P 0 4M 1M',
    'read -P 0 8M 1M',
    'aio_read 0 1M',
    'aio_read 5M 1M',
    'aio_flush',
  ])
  t.notMatch(output, /verification failed|error/i)
  const bytes = readFileSync(image('disk one'))
  t.ok(bytes.subarray(1234567, 1234567 + 4321).every(byte => byte === 0x22))
  copyFileSync(image('disk one'), files.path('copy.img'))
  await succeed('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', files.path('copy.img'), tcpUri('disk one')])
})

t.test('fio: random writes at depth 32, verified', async t => {
  const jobs: [string, string][] = [
    ['randwrite', '4k'],
    ['randrw', '512-64k'],
  ]
  for (const [pattern, size] of jobs) {
    const output = await succeed(
      'fio',
      [
        ...[
          '--name=verify',
          '--ioengine=nbd',
          `--uri=${uri('target')}`,
          `--rw=${pattern}`,
          '--size=16m',
          '--iodepth=32',
        ],
        ...[
          size.includes('-') ? `--bsrange=${size}` : `--bs=${size}`,
          '--verify=crc32c',
          '--verify_fatal=1',
          '--end_fsync=1',
        ],
        ...['--randseed=7', '--output-format=json', `--aux-path=${files.folder}`],
      ],
      { cwd: files.folder },
    )
    const { jobs } = JSON.parse(output.slice(output.indexOf('{'))) as {
      jobs: { error: number; read: { total_ios: number } }[]
    }
    t.equal(jobs[0]!.error, 0, `${pattern} ${size}`)
    t.ok(jobs[0]!.read.total_ios > 0, 'was read back')
  }
})

t.test('no file has grown or shrunk', async t => {
  await nbdsh('odd', 'h.flush()')
  for (const [name, { path, bytes }] of Object.entries(images)) t.equal(statSync(path).size, bytes, name)
})
