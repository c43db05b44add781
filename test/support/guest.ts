/**
 * User-mode-linux guests (package user-mode-linux): a kernel of their own over the host's file system, which is read-only
 * in there. A guest runs one script of test/guest to its end, and prints what the test reads.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { launch, type Owner, ROOT, type Scratch, succeed } from './daemon.js'

const GUEST = join(ROOT, 'test/guest')

export interface GuestOptions {
  /** Words of the kernel's command line; the script has NAME=VALUE as variables. */
  parameters: string[]
  memory?: string
  /** An NBD socket to carry in. */
  wire?: string
  limitMs?: number
}

/** Returns what the guest printed. Throws when it did not come to its end. */
export async function runGuest(t: Owner, files: Scratch, init: string, options: GuestOptions): Promise<string> {
  if (!existsSync('/usr/bin/linux.uml')) throw new Error('package user-mode-linux is missing')
  const { parameters, memory = '256M', wire, limitMs = 90_000 } = options
  const kernel = [
    ...['linux.uml', `mem=${memory}`, 'root=/dev/root', 'rootfstype=hostfs', 'ro', 'quiet'],
    ...[`init=${join(GUEST, init)}`, `here=${GUEST}`, 'con=null', 'con0=null,fd:1'],
    ...[`uml_dir=${files.folder}`, `umid=${init}`, ...parameters],
  ]
  const line = [join(GUEST, 'wire.py'), 'host', wire ?? '', '--', ...kernel, 'ssl0=fd:@,fd:@']
  const [command, ...args] = wire === undefined ? kernel : line
  // The kernel's memory is a file in TMPDIR that must allow execution.
  const guest = launch(t, init, command ?? '', args, {
    env: { LD_PRELOAD: await buildShim(files), TMPDIR: files.folder },
  })
  await guest.gone(limitMs)
  if (!guest.stdout.includes('GUEST: end done'))
    throw new Error(`the guest ${init} did not come to its end: ${guest.tail(60)}`)
  return guest.stdout
}

/** Builds the shim that lets the guest's kernel run on processors with AMX. */
async function buildShim(files: Scratch): Promise<string> {
  const shim = files.path('xstate-ptrace.so')
  await succeed('cc', ['-O2', '-shared', '-fPIC', '-o', shim, join(GUEST, 'xstate-ptrace.c'), '-ldl'])
  return shim
}
