/** An XFS of one's own, on a loop device, for the length of a test: a file system with reflink. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { type Owner, sparseFile, succeed } from './daemon.js'

/** Why there can be none, as test/allowed-skips.txt has it; false: there can. */
export function noXfs(): string | false {
  if (process.getuid?.() !== 0) return 'needs root'
  try {
    execFileSync('modprobe', ['--quiet', 'xfs'], { stdio: 'ignore' })
  } catch {
    // It is built in, or not there.
  }
  const isThere = /^\txfs$/m.test(readFileSync('/proc/filesystems', 'latin1')) && existsSync('/dev/loop-control')
  return isThere ? false : 'needs loop devices, and xfs'
}

/** `folder` is made; `image` is a file anywhere. Who uses it is begun later, and so ends before. */
export async function mountXfs(t: Owner, folder: string, image: string): Promise<void> {
  await sparseFile(image, 1 << 30)
  mkdirSync(folder, { mode: 0o700 })
  await succeed('mkfs.xfs', ['-q', image])
  await succeed('mount', ['-o', 'loop', image, folder])
  t.teardown(() => succeed('umount', ['--lazy', folder]))
}
