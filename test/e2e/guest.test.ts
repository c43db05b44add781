// timeout: 200
/**
 * The kernel's own NBD client: a user-mode-linux guest makes a file system on the export, writes, syncs, unmounts and
 * checks it; then another guest mounts the standby's image, and both tell the same files.
 */
import { join } from 'node:path'
import t from 'tap'
import { inSync, ROOT, sameBytes, startPair } from '../support/daemon.js'
import { runGuest } from '../support/guest.js'

const MiB = 1 << 20

const lines = (text: string, mark: string): string[] => text.split(/\r?\n/).filter(line => line.startsWith(mark))

void t.test(
  "what the kernel's nbd client writes in one guest is mounted from the standby's image in another",
  async t => {
    const pair = await startPair(t, { sizeBytes: 64 * MiB })
    const first = await runGuest(t, pair.scratch, 'write.sh', {
      parameters: [`files=${join(ROOT, 'src')}`],
      wire: pair.socket,
    })
    t.match(first, /GUEST: size 131072 cache write back/, 'the kernel sees the size and a cache that can be flushed')
    t.match(first, /GUEST: ok fsck is clean/, 'the file system is clean after the umount')
    await inSync(pair)
    await sameBytes(t, pair.device, pair.image)
    t.equal((await pair.master.stop()).code, 0)
    t.equal((await pair.standby.stop()).code, 0)

    const second = await runGuest(t, pair.scratch, 'compare.sh', {
      parameters: ['disk=/dev/ubda', `ubd0r=${pair.image}`],
    })
    t.ok(lines(first, 'HASH: ').length > 80, `there is something to compare: ${lines(first, 'HASH: ').length} files`)
    t.same(
      lines(second, 'ENTRY: '),
      lines(first, 'ENTRY: '),
      'names, types, modes, sizes and link targets are the same',
    )
    t.same(lines(second, 'HASH: '), lines(first, 'HASH: '), 'every file has the same content')
  },
)
