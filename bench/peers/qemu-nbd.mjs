// qemu-nbd, through the page cache as all the others; its device by io_uring or by a pool of threads.
import { join } from 'node:path'
import { sparseFile } from '../lib/files.mjs'
import { listening, start } from '../lib/processes.mjs'
import { plainServer } from './nbdkit.mjs'

export async function startQemuNbd({ folder, sizeBytes }, aio) {
  const image = sparseFile(join(folder, `qemu-nbd-${aio}`, 'disk.img'), sizeBytes)
  const socket = join(folder, `qemu-nbd-${aio}`, 'nbd.sock')
  const flags = [
    '--persistent',
    '--format=raw',
    '--cache=writeback',
    '--discard=ignore',
    '--shared=0',
    '--export-name=',
  ]
  const program = start('qemu-nbd', [...flags, `--aio=${aio}`, `--socket=${socket}`, image])
  await listening(socket, program)
  return plainServer(program, { unix: socket })
}
