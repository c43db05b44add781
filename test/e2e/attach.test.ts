// timeout: 300
/**
 * A volume as a block device of the master's own kernel. The daemon runs inside of a user-mode-linux guest, whose disk is
 * the volume and whose kernel is the client: what a crash of the daemon, or a lack of memory, does to its users.
 */
import { open } from 'node:fs/promises'
import t from 'tap'
import { MAIN, scratch, sparseFile } from '../support/daemon.js'
import { runGuest } from '../support/guest.js'

const MiB = 1 << 20
const ioFlusher = 0x180000

const program = [`node=${process.execPath}`, `main=${MAIN}`]

/** What follows a mark, of the lines that have it. */
const told = (output: string, mark: string): string[] =>
  output.split(/\r?\n/).flatMap(line => (line.startsWith(`GUEST: ${mark} `) ? [line.slice(mark.length + 8)] : []))

const guarded = (output: string): string[] =>
  told(output, 'thread').flatMap(line => (line.endsWith(` ${ioFlusher}`) ? [line.split(' ')[0] ?? ''] : []))

t.test(
  'ext4 on /dev/nbd0 goes on without an error when the daemon is killed under load and started again, and has all that was synced',
  async t => {
    const files = scratch(t)
    const disk = await sparseFile(files.path('disk.img'), 128 * MiB)
    const output = await runGuest(t, files, 'attach.sh', { parameters: [...program, `ubd0=${disk}`], limitMs: 150_000 })
    const [atKill, without, after] = told(output, 'synced').map(line => parseInt(line))
    t.ok(atKill !== undefined && atKill >= 50, `${atKill} syncs at the kill`)
    t.ok(without !== undefined && atKill !== undefined && without <= atKill + 1, 'nothing is synced without a daemon')
    t.ok(after !== undefined && without !== undefined && after >= without + 50, `${after} after the restart`)
    t.same(told(output, 'takeover'), ['0'], 'the daemon was taken over, under load')
    t.same(
      told(output, 'connected again'),
      ['1'],
      'the kernel keeps its connection then, and needed one after the crash',
    )
    t.same(told(output, 'errors'), ['0'], "the kernel's log has no I/O error")
    t.match(told(output, 'status'), [/"attachments":\[\{"device":"\/dev\/nbd0","volume":"disk1","state":"connected"/])
    t.same(told(output, 'daemon'), ['0'])

    const exits = told(output, 'exit')
    t.match(exits[0], /^1 of attach: .*no daemon runs/)
    t.match(exits[1], /^3 of attach: .*volume disk1 is attached as \/dev\/nbd0 already/)
    t.match(exits[2], /^3 of detach: .*is mounted or otherwise in use/)
    t.match(exits[3], /^0 of detach/)
  },
)

t.test(
  'dirty pages of twice the memory are written through a device that this very host serves, and all of them arrive',
  async t => {
    const files = scratch(t, { onDisk: true })
    const disk = await sparseFile(files.path('disk.img'), 380 * MiB)
    const megabytes = 352
    const output = await runGuest(t, files, 'fill.sh', {
      parameters: [...program, `ubd0=${disk}`, `megabytes=${megabytes}`],
      memory: '176M',
      limitMs: 150_000,
    })
    t.ok(parseInt(told(output, 'memory')[0] ?? '') * 1024 * 2 <= megabytes * MiB, 'it is twice the memory')
    t.same(told(output, 'errors'), ['0'])
    const threads = guarded(output)
    t.ok(threads.includes('us-engine') && threads.includes('us-worker'), 'the data path allocates without I/O')
    t.ok(parseInt(told(output, 'VmLck:')[0] ?? '') > 0, 'and is locked in memory')
    await sameTags(t, disk, megabytes)
  },
)

/** As load.py wrote them. */
async function sameTags(
  t: { equal: (a: unknown, b: unknown, title: string) => unknown },
  path: string,
  megabytes: number,
) {
  const block = Buffer.alloc(64 << 10)
  const file = await open(path)
  let wrong = 0
  for (let number = 0; number < (megabytes * MiB) / block.length; number++) {
    await file.read(block, 0, block.length, number * block.length)
    const tag = BigInt(number)
    if (!new BigUint64Array(block.buffer, block.byteOffset, block.length / 8).every(word => word === tag)) wrong++
  }
  await file.close()
  t.equal(wrong, 0, "the volume's device holds every block, seen from the host")
}
