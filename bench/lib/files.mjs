// Devices and ports for what is measured.
import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { closeSync, mkdirSync, openSync, truncateSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname } from 'node:path'

/** A new file that reads as zeroes; its folder is made. */
export function sparseFile(path, bytes) {
  mkdirSync(dirname(path), { recursive: true })
  closeSync(openSync(path, 'w'))
  truncateSync(path, bytes)
  return path
}

/** A new file without holes. */
export function filledFile(path, bytes) {
  sparseFile(path, bytes)
  const fd = openSync(path, 'r+')
  const data = randomBytes(1 << 20)
  for (let at = 0; at < bytes; at += data.length) writeSync(fd, data, 0, data.length, at)
  closeSync(fd)
}

export async function freeUdpPort() {
  const socket = createSocket('udp4')
  await new Promise(resolve => socket.bind(0, '127.0.0.1', resolve))
  const { port } = socket.address()
  socket.close()
  return port
}

export async function freeTcpPort() {
  const server = createServer()
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  server.close()
  return port
}
