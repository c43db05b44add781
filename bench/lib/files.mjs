// Devices and ports for what is measured.
import { randomBytes, randomInt } from 'node:crypto'
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

export const freeUdpPort = () => freePort(port => createSocket('udp4').bind(port, '127.0.0.1'))
export const freeTcpPort = () => freePort(port => createServer().listen(port, '127.0.0.1'))

/** Not of those that the kernel gives to connections: another program's could have it before ours listens. */
async function freePort(listener) {
  for (let tries = 0; tries < 100; tries++) {
    const port = randomInt(10_000, 32_000)
    const socket = listener(port)
    const isFree = await new Promise(resolve =>
      socket.once('listening', () => resolve(true)).once('error', () => resolve(false)),
    )
    if (!isFree) continue
    await new Promise(resolve => socket.close(resolve))
    return port
  }
  throw new Error('no free port')
}
