/** The file systems that the guests work on, and how they are mounted. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Scratch, sparseFile, succeed } from '../support/daemon.js'

const MiB = 1 << 20

export interface Layout {
  title: string
  /** For mke2fs. */
  make: string
  /** For mount. */
  options: string
  /** What the guest's kernel takes for the size of a sector: at most that of a block. */
  sector: number
  /** It is made so small, and the guest makes it larger while it works. */
  grows?: true
  /** In the middle of the work it is unmounted and made anew. */
  remade?: true
}

export const layouts: Layout[] = [
  { title: 'ordered data, 4 KiB', make: '-b 4096', options: 'data=ordered', sector: 4096 },
  { title: 'ordered data, 1 KiB', make: '-b 1024', options: 'data=ordered', sector: 1024 },
  { title: 'no checksums', make: '-b 1024 -O ^metadata_csum,^64bit', options: 'data=ordered', sector: 512 },
  { title: 'written back whenever', make: '-b 4096', options: 'data=writeback', sector: 4096 },
  { title: 'data in the journal', make: '-b 4096', options: 'data=journal', sector: 4096 },
  { title: 'bigalloc', make: '-b 4096 -O bigalloc -C 16384', options: 'data=ordered', sector: 4096 },
  { title: 'no delayed allocation', make: '-b 1024', options: 'nodelalloc,commit=1', sector: 1024 },
  { title: 'inline data', make: '-b 4096 -O inline_data', options: 'data=ordered', sector: 512 },
  { title: 'resized', make: '-b 4096', options: 'data=ordered', sector: 4096, grows: true },
  { title: 'made anew', make: '-b 4096', options: 'data=ordered', sector: 4096, remade: true },
  { title: 'ext3', make: '-b 4096 -O ^extents,^64bit,^flex_bg,^metadata_csum', options: 'data=ordered', sector: 4096 },
]

/** So small that blocks are used again soon. */
export const fileSystemBytes = 72 * MiB
/** Behind the file system: where the tap's mark is. */
export const markAt = fileSystemBytes + MiB / 2
export const deviceBytes = fileSystemBytes + MiB

/** Makes the device's file, with files that are there before, in tmp and in srv. */
export async function makeDevice(files: Scratch, layout: Layout): Promise<string> {
  const device = await sparseFile(files.path('disk.img'), deviceBytes)
  const tree = files.path('tree')
  for (const side of ['tmp', 'srv']) {
    const write = async (path: string, bytes: number): Promise<void> => {
      const sectors = Array.from({ length: bytes / 512 }, (_, i) => `/run/disk/${path} 0 ${i} `.padEnd(512, '.'))
      await mkdir(join(tree, path, '..'), { recursive: true })
      await writeFile(join(tree, path), sectors.join(''))
    }
    for (let number = 0; number < 8; number++) {
      await write(`${side}/before/${number}`, MiB)
      await write(`${side}/folder-of-${side}/inner/${number}`, MiB / 16)
    }
  }
  // So that no folder is inline, where it may be: those are not followed (docs/filters.md).
  for (const folder of ['tmp', 'tmp/before', 'srv', 'srv/before'])
    for (let number = 0; number < 6; number++)
      await writeFile(join(tree, folder, `a-name-that-takes-its-space-in-a-folder-${number}`), '')
  const bytes = layout.grows ? fileSystemBytes - 16 * MiB : fileSystemBytes
  await succeed('sh', ['-c', `${makeCommand(layout)} -d ${tree} ${device} ${bytes / 1024}k`])
  return device
}

export const makeCommand = ({ make }: Layout): string => `mke2fs -q -F -t ext4 -E nodiscard -J size=4 ${make}`
