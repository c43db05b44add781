// timeout: 60
/** A master with --direct: its device is read and written past the page cache, at any offset and length. */
import { constants, openSync, statfsSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'

import { command, inSync, type Pair, sameBytes, scratch, sparseFile, startPair, succeed } from '../support/daemon.js'

const MiB = 1 << 20
const inMemory = [0x01021994, 0x858458f6] // tmpfs, ramfs

/** Why not, if scratch files on a disk cannot be opened with O_DIRECT. */
function lacksDirect(t: Test): string | false {
  const reason = 'needs a disk with O_DIRECT'
  const path = scratch(t, { onDisk: true }).path('probe')
  writeFileSync(path, 'x')
  try {
    openSync(path, constants.O_RDONLY | constants.O_DIRECT)
  } catch {
    return reason
  }
  return inMemory.includes(statfsSync(path).type) && reason
}

/** Pages of the file that are in the page cache. */
async function cachedPages(path: string): Promise<number> {
  const script = `
import ctypes, mmap, os, sys
fd, size = os.open(sys.argv[1], os.O_RDWR), os.path.getsize(sys.argv[1])
view = (ctypes.c_char * size).from_buffer(mmap.mmap(fd, size))
pages = (ctypes.c_ubyte * ((size + 4095) // 4096))()
if ctypes.CDLL(None).mincore(ctypes.byref(view), ctypes.c_size_t(size), pages): sys.exit("mincore")
print(sum(page & 1 for page in pages))
`
  return Number((await succeed('python3', ['-c', script, path])).trim())
}

/** Pieces of 512 B to 1 MiB at any multiple of 512, read back and compared. */
async function verified(pair: Pair, extra: string[] = []): Promise<void> {
  const args = ['--name=direct', '--ioengine=nbd', `--uri=${pair.uri}`, '--rw=randwrite', '--iodepth=32']
  args.push('--bsrange=512-1m', '--blockalign=512', '--bs_unaligned=1', '--verify=crc32c', '--verify_fatal=1', ...extra)
  await succeed('fio', args, { cwd: pair.scratch.folder })
}

void t.test(
  'with --direct what is written anywhere is on both sides, and not in the page cache',
  { skip: lacksDirect(t) },
  async t => {
    const pair = await startPair(t, {
      sizeBytes: 48 * MiB,
      onDisk: true,
      master: ['--direct', '--durability', 'async'],
    })
    t.equal((await pair.master.volume('disk1')).direct, true, 'status says so')
    await verified(pair, ['--size=40m', '--io_size=16m'])
    // Odd offsets too: no sector of any disk ends there, so that each write reads its neighbours first.
    await succeed('nbdsh', [
      ...['-u', pair.uri, '-c'],
      `
import os
at, pieces = 41 << 20, []
for size in [1, 3, 511, 700, 4095, 5000, 65537, 300001]: pieces.append((at, os.urandom(size))); at += size
for offset, piece in pieces: h.aio_pwrite(piece, offset)
while h.aio_in_flight(): h.poll(-1)
assert b"".join(piece for _, piece in pieces) == h.pread(at - (41 << 20), 41 << 20)
h.zero(70001, (41 << 20) + 777)
h.trim(1 << 20, (46 << 20) + 1)
h.flush()
assert h.pread(70001, (41 << 20) + 777) == bytes(70001)
`,
    ])
    t.equal(await cachedPages(pair.device), 0, 'no page of the device is in the page cache')
    await inSync(pair)
    t.match(
      await command(['verify', 'disk1', '--state', pair.master.state]),
      { code: 0 },
      'a verify finds no difference',
    )
    await pair.standby.kill()
    await verified(pair, ['--offset=8m', '--size=8m', '--io_size=8m'])
    await pair.standby.restart()
    await inSync(pair)
    t.equal((await pair.master.stop()).code, 0)
    t.equal((await pair.standby.stop()).code, 0)
    await sameBytes(t, pair.device, pair.image)
  },
)

void t.test('--direct where there is no O_DIRECT is refused in one line, as wrong input', async t => {
  const files = scratch(t)
  if (!inMemory.includes(statfsSync(files.folder).type)) return // native/direct has it on a file of memfd_create()
  const device = await sparseFile(files.path('disk.img'), MiB)
  const args = ['master', '--state', files.path('m'), '--device', device, '--export', 'disk1', '--direct']
  const { code, stderr } = await command([...args, '--listen', `unix:${files.path('nbd.sock')}`])
  t.equal(code, 2)
  const lines = stderr.split('\n').filter(line => line.startsWith('understudy: '))
  t.same(lines, [
    `understudy: open device: ${device}: direct: a file system in memory has nothing but the page cache: Operation not supported (EOPNOTSUPP)`,
  ])
})
