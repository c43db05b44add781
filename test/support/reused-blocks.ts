/** Two states of one ext4, between which blocks of a file in /tmp have become another file's. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type Scratch, succeed } from './daemon.js'

const blockBytes = 4096

/** What stands in a block, and where. */
type Block = [at: number, content: Buffer]

/** What makes `after` of `before`: blocks that were in /tmp/x, and the others. */
export function changedBlocks(t: Test, before: Buffer, after: Buffer): { reused: Block[]; others: Block[] } {
  const reused: Block[] = []
  const others: Block[] = []
  for (let at = 0; at < before.length; at += blockBytes) {
    const [old, content] = [before, after].map(image => image.subarray(at, at + blockBytes)) as [Buffer, Buffer]
    if (!content.equals(old)) (isFilledWith(old, 'X') ? reused : others).push([at, content])
  }
  t.ok(reused.length * blockBytes > 8 << 20, "enough blocks of the file in /tmp have become another's")
  return { reused, others }
}

const isFilledWith = (block: Buffer, letter: string): boolean => block.every(byte => byte === letter.charCodeAt(0))

/**
 * Makes the first one on `device` (of 32 MiB, as it is), with 14 MiB of 'X' in /tmp/x, and returns both. Nearly full: what
 * is new has to be where /tmp/x was. Its data are a pattern, and zeroes.
 */
export async function reusedBlocks(files: Scratch, device: string): Promise<{ before: Buffer; after: Buffer }> {
  const [tree, after, fresh] = [files.path('tree'), files.path('after.img'), files.path('fresh')]
  for (const folder of ['tmp', 'new']) mkdirSync(join(tree, folder), { recursive: true })
  writeFileSync(join(tree, 'tmp/x'), Buffer.alloc(14 << 20, 'X'))
  writeFileSync(join(tree, 'kept'), Buffer.alloc(10 << 20, 'k'))
  writeFileSync(
    fresh,
    Buffer.concat([Buffer.alloc(4 << 20, 'Y'), Buffer.alloc(3 << 20, '0'), Buffer.alloc(4 << 20, 'Z')]),
  )
  const script = [
    `mke2fs -q -F -t ext4 -b ${blockBytes} -m 0 -J size=4 -d ${tree} ${device}`,
    `cp ${device} ${after}`,
    `debugfs -w -R 'rm /tmp/x' ${after}`,
    `debugfs -w -R 'write ${fresh} /new/y' ${after}`,
    `e2fsck -fn ${after}`,
  ]
  await succeed('sh', ['-ec', `PATH=$PATH:/usr/sbin; ${script.join('\n')}`])
  const content = readFileSync(after) // debugfs makes holes of zeroes, a client may write them
  for (let at = 0; at < content.length; at += blockBytes)
    if (isFilledWith(content.subarray(at, at + blockBytes), '0')) content.fill(0, at, at + blockBytes)
  return { before: readFileSync(device), after: content }
}
