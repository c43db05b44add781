// A file system of a kind of one's own, on a loop device: what its device took, the kernel has counted.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, rmSync, statfsSync } from 'node:fs'
import { basename, join } from 'node:path'
import { sparseFile } from './files.mjs'
import { run } from './processes.mjs'

const mounted = new Set()
process.on('exit', () => {
  for (const path of mounted) spawnSync('umount', [path])
})

const makeArgs = { xfs: ['-q'], ext4: ['-q', '-F'] }

/**
 * `kind`: xfs (with reflink), ext4 (which has none). Throws where this is not to be had: who calls says why its measurement
 * is void. `writtenBytes()`: that the device took until now, all that was written to the file system being there.
 */
export async function loopFilesystem(kind, folder, bytes) {
  if (process.getuid() !== 0) throw new Error(`needs root, to mount ${kind} on a loop device`)
  const [image, path] = [join(folder, `${kind}.img`), join(folder, kind)]
  mkdirSync(path, { recursive: true })
  sparseFile(image, bytes)
  await run(`mkfs.${kind}`, [...makeArgs[kind], image])
  await run('mount', ['-o', 'loop', image, path])
  mounted.add(path)
  const device = basename(
    readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .find(line => line.split(' ')[1] === path)
      .split(' ')[0],
  )
  return {
    path,
    usedBytes: () => (({ blocks, bfree, bsize }) => (blocks - bfree) * bsize)(statfsSync(path)),
    async writtenBytes() {
      await run('sync', ['-f', path])
      return Number(readFileSync(`/sys/block/${device}/stat`, 'utf8').trim().split(/ +/)[6]) * 512
    },
    /** Removes what lies there. */
    clear: () => readdirSync(path).forEach(name => rmSync(join(path, name), { recursive: true, force: true })),
    async stop() {
      await run('umount', [path])
      mounted.delete(path)
      rmSync(image)
    },
  }
}
