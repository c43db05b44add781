// nbdkit file: the plain NBD server that most people would take.
import { join } from 'node:path'
import { sparseFile } from '../lib/files.mjs'
import { fio } from '../lib/fio.mjs'
import { listening, start } from '../lib/processes.mjs'

export async function startNbdkit({ folder, sizeBytes }, name = 'nbdkit') {
  const image = sparseFile(join(folder, name, 'disk.img'), sizeBytes)
  const socket = join(folder, name, 'nbd.sock')
  const program = start('nbdkit', ['-f', '-U', socket, 'file', image])
  await listening(socket, program)
  return plainServer(program, { unix: socket })
}

export async function startNbdkitFio(context) {
  const peer = await startNbdkit(context, 'nbdkit-fio')
  return { ...peer, measure: (load, seconds) => fio(peer.target, load, context.sizeBytes, seconds) }
}

export async function startNbdkitTcp({ folder, sizeBytes }, port) {
  const image = sparseFile(join(folder, 'nbdkit-tcp', 'disk.img'), sizeBytes)
  const program = start('nbdkit', ['-f', '-i', '127.0.0.1', '-p', String(port), 'file', image])
  await listening({ host: '127.0.0.1', port }, program)
  return plainServer(program, { tcp: `127.0.0.1:${port}` })
}

/** A peer that is one server and replicates nothing. */
export function plainServer(program, target) {
  return { target, processes: { server: program }, settled: async () => null, stop: () => program.stop() }
}
