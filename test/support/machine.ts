/**
 * A guest for machines (test/guest/machine.c): the arguments with which QEMU boots Debian's kernel into it. By emulation,
 * whatever the host can do: KVM within a virtual machine may be there and hang.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ROOT, type Scratch, succeed } from './daemon.js'

const KERNEL = join(ROOT, 'build/guest-kernel')
export const guestKernel = join(KERNEL, 'vmlinuz')

export type Job = 'count' | 'listen'

export interface Guest {
  /** For QEMU. */
  arguments(job: Job): string[]
}

export async function buildGuest(files: Scratch): Promise<Guest> {
  const init = files.path('machine-init')
  await succeed('cc', ['-O2', '-static', '-o', init, join(ROOT, 'test/guest/machine.c')])
  const modules = readdirSync(KERNEL).filter(name => name.endsWith('.ko'))
  const archive = files.path('machine.cpio')
  const parts = [['init', init], ...modules.map(name => [name, join(KERNEL, name)])]
  await writeFile(archive, initramfs(parts.map(([name = '', path = '']) => [name, readFileSync(path)])))
  // On a host without a processor to spare a boot would find that no timer works, and panic: that is not looked at.
  const kernel = 'console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable'
  return {
    arguments: job => [
      ...['-accel', 'tcg', '-kernel', guestKernel, '-initrd', archive],
      ...['-append', `${kernel} job=${job}`],
    ],
  }
}

/** cpio's "newc" (Documentation/driver-api/early-userspace/buffer-format.rst), not compressed: emulation is slow at it. */
function initramfs(files: [name: string, content: Buffer][]): Buffer {
  const padded = (part: Buffer): Buffer => Buffer.concat([part, Buffer.alloc((4 - (part.length % 4)) % 4)])
  const entry = ([name, content]: [string, Buffer]): Buffer => {
    const fields = [1, 0o100755, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0]
    const header = `070701${fields.map(field => field.toString(16).padStart(8, '0')).join('')}${name}\0`
    return Buffer.concat([padded(Buffer.from(header)), padded(content)])
  }
  return Buffer.concat([...files, ['TRAILER!!!', Buffer.alloc(0)] as [string, Buffer]].map(entry))
}
