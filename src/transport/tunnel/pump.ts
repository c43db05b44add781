/**
 * Packets between a UDP socket and a WebTransport stream. On the stream each packet, and each JSON message before them,
 * is a frame: its length in two bytes, little-endian, then its bytes.
 *
 * Bounded: at most 4 MiB wait each way; what comes beyond that is dropped, and QUIC sends it again.
 */
import type { Socket } from 'node:dgram'

import type { ByteStream } from './library.js'

const waitingBytesMax = 4 << 20
const frameBytesMax = 0xffff

export class FrameStream {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>
  #received: Buffer = Buffer.alloc(0)
  #waitingBytes = 0

  constructor(stream: ByteStream) {
    this.#reader = stream.readable.getReader()
    this.#writer = stream.writable.getWriter()
    // Its end shows in whatever is read or written next.
    this.#writer.closed.catch(() => undefined)
    this.#reader.closed.catch(() => undefined)
  }

  /** The next frame; undefined: the stream has ended. */
  async read(): Promise<Buffer | undefined> {
    for (;;) {
      const frame = this.#take()
      if (frame !== undefined) return frame
      const { value, done } = await this.#reader.read()
      if (done) return undefined
      this.#received = this.#received.length === 0 ? asBuffer(value) : Buffer.concat([this.#received, value])
    }
  }

  async readJson(): Promise<unknown> {
    const frame = await this.read()
    return frame === undefined ? undefined : (JSON.parse(frame.toString('utf8')) as unknown)
  }

  /** False: too much waits already, and it was dropped. Rejections of the stream go to `failed`. */
  write(bytes: Uint8Array, failed: (error: unknown) => void): boolean {
    if (bytes.length > frameBytesMax || this.#waitingBytes > waitingBytesMax) return false
    const frame = Buffer.allocUnsafe(2 + bytes.length)
    frame.writeUInt16LE(bytes.length, 0)
    frame.set(bytes, 2)
    this.#waitingBytes += frame.length
    this.#writer.write(frame).then(() => (this.#waitingBytes -= frame.length), failed)
    return true
  }

  async writeJson(value: object): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.write(Buffer.from(JSON.stringify(value)), reject)
      this.#writer.ready.then(resolve, reject)
    })
  }

  #take(): Buffer | undefined {
    if (this.#received.length < 2) return undefined
    const end = 2 + this.#received.readUInt16LE(0)
    if (this.#received.length < end) return undefined
    const frame = this.#received.subarray(2, end)
    this.#received = this.#received.subarray(end)
    return frame
  }
}

/**
 * Until the stream ends, fails, or nothing came for `idleMs`; throws then, never returns otherwise. `peer`: where
 * packets from the stream go; undefined: to whoever sent to the socket last.
 */
export async function pump(
  frames: FrameStream,
  socket: Socket,
  idleMs: number,
  peer?: { port: number; address: string },
): Promise<never> {
  let target = peer
  let failure: ((error: unknown) => void) | undefined
  let lastMs = performance.now()
  const failed = new Promise<never>((_, reject) => (failure = reject))
  failed.catch(() => undefined)
  const fail = (error: unknown): void => failure?.(error)
  socket.on('message', (packet, from) => {
    if (peer === undefined) target = from
    frames.write(packet, fail)
  })
  socket.on('error', fail)
  const timer = setInterval(() => {
    if (performance.now() - lastMs > idleMs) fail(new Error(`nothing came through the tunnel for ${idleMs / 1000} s`))
  }, 1000)
  try {
    for (;;) {
      const packet = await Promise.race([frames.read(), failed])
      if (packet === undefined) throw new Error('the other side closed the tunnel')
      lastMs = performance.now()
      if (target !== undefined && socket.getSendQueueSize() < waitingBytesMax)
        socket.send(packet, target.port, target.address, () => undefined)
    }
  } finally {
    clearInterval(timer)
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
