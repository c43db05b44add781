// timeout: 200
/**
 * The kernel's own NBD client: a user-mode-linux guest makes a file system on the export, writes, syncs, unmounts and
 * checks it; then another guest mounts the standby's image, and both tell the same files.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { inSync, launch, ROOT, sameBytes, type Scratch, startPair, succeed } from '../support/daemon.js'

const GUEST = join(ROOT, 'test/guest')
const MiB = 1 << 20

/** Builds the shim that lets the guest's kernel run on processors with AMX. */
async function buildShim(files: Scratch): Promise<string> {
  const shim = files.path('xstate-ptrace.so')
  await succeed('cc', ['-O2', '-shared', '-fPIC', '-o', shim, join(GUEST, 'xstate-ptrace.c'), '-ldl'])
  return shim
}

/** Runs a guest to its end; returns what it printed. `wire`: an NBD socket to carry in. */
async function runGuest(t: Test, files: Scratch, init: string, parameters: string[], wire?: string): Promise<string> {
  const kernel = [
    'linux.uml',
    'mem=256M',
    'root=/dev/root',
    'rootfstype=hostfs',
    'ro',
    'quiet',
    `init=${join(GUEST, init)}`,
    `here=${GUEST}`,
  ]
  kernel.push('con=null', 'con0=null,fd:1', `uml_dir=${files.folder}`, `umid=${init}`, ...parameters)
  const line = [join(GUEST, 'wire.py'), 'host', wire ?? '', '--', ...kernel, 'ssl0=fd:@,fd:@']
  const [command, ...args] = wire === undefined ? kernel : line
  // The kernel's memory is a file in TMPDIR that must allow execution.
  const guest = launch(t, init, command ?? '', args, {
    env: { LD_PRELOAD: await buildShim(files), TMPDIR: files.folder },
  })
  await guest.gone(90_000)
  if (!guest.stdout.includes('GUEST: end done'))
    throw new Error(`the guest ${init} did not come to its end: ${guest.tail(60)}`)
  return guest.stdout
}

const lines = (text: string, mark: string): string[] => text.split(/\r?\n/).filter(line => line.startsWith(mark))

void t.test(
  "what the kernel's nbd client writes in one guest is mounted from the standby's image in another",
  async t => {
    const pair = await startPair(t, { sizeBytes: 64 * MiB })
    t.ok(existsSync('/usr/bin/linux.uml'), 'user-mode-linux is there (package user-mode-linux)')
    const first = await runGuest(t, pair.scratch, 'write.sh', [`files=${join(ROOT, 'src')}`], pair.socket)
    t.match(first, /GUEST: size 131072 cache write back/, 'the kernel sees the size and a cache that can be flushed')
    t.match(first, /GUEST: ok fsck is clean/, 'the file system is clean after the umount')
    await inSync(pair)
    await sameBytes(t, pair.device, pair.image)
    t.equal((await pair.master.stop()).code, 0)
    t.equal((await pair.standby.stop()).code, 0)

    const second = await runGuest(t, pair.scratch, 'compare.sh', ['disk=/dev/ubda', `ubd0r=${pair.image}`])
    t.ok(lines(first, 'HASH: ').length > 80, `there is something to compare: ${lines(first, 'HASH: ').length} files`)
    t.same(
      lines(second, 'ENTRY: '),
      lines(first, 'ENTRY: '),
      'names, types, modes, sizes and link targets are the same',
    )
    t.same(lines(second, 'HASH: '), lines(first, 'HASH: '), 'every file has the same content')
  },
)
