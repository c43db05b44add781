// The reference server. It forks a process for each client.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freeTcpPort, sparseFile } from '../lib/files.mjs'
import { listening, startDaemon } from '../lib/processes.mjs'
import { plainServer } from './nbdkit.mjs'

export async function startNbdServer({ folder, sizeBytes }) {
  const own = join(folder, 'nbd-server')
  mkdirSync(own, { recursive: true })
  const image = sparseFile(join(own, 'disk.img'), sizeBytes)
  const [socket, config] = [join(own, 'nbd.sock'), join(own, 'config')]
  // It listens on a port too. (With port 0 it accepts on the socket and says nothing.)
  const general = ['[generic]', `unixsock = ${socket}`, 'listenaddr = 127.0.0.1', `port = ${await freeTcpPort()}`]
  writeFileSync(config, [...general, '[disk]', `exportname = ${image}`, 'flush = true', ''].join('\n'))
  const pidFile = join(own, 'pid')
  const program = await startDaemon('nbd-server', ['-C', config, '-p', pidFile], pidFile)
  await listening(socket, program)
  return plainServer(program, { unix: socket, export: 'disk' })
}
