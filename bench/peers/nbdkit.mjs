// nbdkit file: what an NBD server without replication reaches.
import { closeSync, openSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { listening, start } from '../lib/processes.mjs'

/** nbdkit on a sparse file of this size; `name` tells two of them apart. */
export async function startNbdkit(folder, sizeBytes, name = 'nbdkit') {
  const [image, socket] = [join(folder, `${name}.img`), join(folder, `${name}.sock`)]
  closeSync(openSync(image, 'w'))
  truncateSync(image, sizeBytes)
  const program = start('nbdkit', ['-f', '-U', socket, 'file', image])
  await listening(socket, program)
  return { uri: `nbd+unix:///?socket=${socket}`, image, socket, settled: async () => null, stop: () => program.stop() }
}
