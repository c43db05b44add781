/**
 * Bytes of the handshake in and out of a socket. The reader pulls exactly what is asked for and leaves the rest in the
 * stream's own buffer, which stops reading from the kernel at its high-water mark: a client that sends a lot without
 * being asked costs at most that (handshakeBufferBytes and one read of libuv's, 64 KiB).
 */
import type { Duplex } from 'node:stream'
import { UnderstudyError } from '../core/errors.js'
import { info, NBD_REP_MAGIC, reply } from './constants.js'

export const handshakeBufferBytes = 16 << 10

/** The largest piece taken out of the stream at once while discarding. */
const discardBytes = 8 << 10

export type HandshakeErrorCode = 'NBD_CLOSED' | 'NBD_PROTOCOL' | 'NBD_TIMEOUT' | 'NBD_REFUSED' | 'NBD_TLS'

/** Why a connection ended before transmission. NBD_CLOSED: the client left; the others: it was dropped. */
export class HandshakeError extends UnderstudyError {
  declare readonly code: HandshakeErrorCode

  constructor(code: HandshakeErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(code, message, options)
  }
}

interface Wanted {
  bytes: number
  resolve: (data: Buffer) => void
  reject: (error: HandshakeError) => void
}

/** One read at a time. After detach() the stream is as if it had never been here. */
export class StreamReader {
  readonly #stream: Duplex
  #wanted: Wanted | undefined
  #failure: HandshakeError | undefined

  constructor(stream: Duplex) {
    this.#stream = stream
    stream.on('readable', this.#onReadable)
    stream.on('end', this.#onEnd)
    stream.on('close', this.#onEnd)
    stream.on('error', this.#onError)
  }

  /** Exactly `bytes` bytes, or HandshakeError when the stream ends first. */
  read(bytes: number): Promise<Buffer> {
    if (bytes === 0) return Promise.resolve(Buffer.alloc(0))
    return new Promise((resolve, reject) => {
      this.#wanted = { bytes, resolve, reject }
      this.#onReadable()
    })
  }

  /** Whether the client has sent more than was asked for; what the kernel still has is not counted. */
  get hasMore(): boolean {
    return this.#stream.readableLength > 0
  }

  async discard(bytes: number): Promise<void> {
    for (let left = bytes; left > 0; left -= Math.min(left, discardBytes)) await this.read(Math.min(left, discardBytes))
  }

  /** Resolves when the kernel has taken it. A stream destroyed meanwhile is an error, although its callback runs. */
  write(data: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#stream.write(data, cause => {
        if (cause !== null && cause !== undefined) reject(this.#failure ?? closed(cause))
        else if (this.#stream.destroyed) reject(this.#failure ?? closed())
        else resolve()
      })
    })
  }

  /** Makes the pending and every later read fail with this error. */
  fail(error: HandshakeError): void {
    this.#failure ??= error
    const wanted = this.#wanted
    this.#wanted = undefined
    wanted?.reject(this.#failure)
  }

  /** As fail(), and gives the stream up: a write that waits for the client fails too. */
  abort(error: HandshakeError): void {
    this.fail(error)
    this.#stream.destroy()
  }

  /** The error listener stays behind: a stream without one would end the process. */
  detach(): void {
    this.#stream.off('readable', this.#onReadable)
    this.#stream.off('end', this.#onEnd)
    this.#stream.off('close', this.#onEnd)
  }

  readonly #onReadable = (): void => {
    const wanted = this.#wanted
    if (wanted === undefined) return
    const data = this.#failure === undefined ? (this.#stream.read(wanted.bytes) as Buffer | null) : null
    if (data !== null && data.length === wanted.bytes) {
      this.#wanted = undefined
      wanted.resolve(data)
    } else if (this.#failure !== undefined) {
      this.fail(this.#failure)
    } else if (data !== null || this.#stream.readableEnded || this.#stream.destroyed) {
      // A shorter answer than asked for is the rest before the end of the stream.
      this.fail(closed())
    }
  }

  readonly #onEnd = (): void => this.fail(closed())
  readonly #onError = (cause: Error): void => this.fail(closed(cause))
}

function closed(cause?: unknown): HandshakeError {
  const why = cause instanceof Error ? `: ${cause.message}` : ''
  return new HandshakeError('NBD_CLOSED', `the client closed the connection during the handshake${why}`, { cause })
}

/** S: magic, option, reply type, length, data. */
export function optionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(20)
  header.writeBigUInt64BE(NBD_REP_MAGIC, 0)
  header.writeUInt32BE(option, 8)
  header.writeUInt32BE(type, 12)
  header.writeUInt32BE(data.length, 16)
  return data.length === 0 ? header : Buffer.concat([header, data])
}

/** NBD_REP_SERVER: length of the name, name, and what is left is the description. */
export function serverReply(option: number, name: string, description: string): Buffer {
  const nameBytes = Buffer.from(name)
  return optionReply(
    option,
    reply.SERVER,
    Buffer.concat([uint32(nameBytes.length), nameBytes, Buffer.from(description)]),
  )
}

export function infoExport(option: number, sizeBytes: bigint, flags: number): Buffer {
  const data = Buffer.alloc(12)
  data.writeUInt16BE(info.EXPORT, 0)
  data.writeBigUInt64BE(sizeBytes, 2)
  data.writeUInt16BE(flags, 10)
  return optionReply(option, reply.INFO, data)
}

export function infoString(option: number, type: number, text: string): Buffer {
  return optionReply(option, reply.INFO, Buffer.concat([uint16(type), Buffer.from(text)]))
}

export function infoBlockSize(option: number, block: { min: number; preferred: number; max: number }): Buffer {
  const data = Buffer.concat([uint16(info.BLOCK_SIZE), uint32(block.min), uint32(block.preferred), uint32(block.max)])
  return optionReply(option, reply.INFO, data)
}

export function metaContextReply(option: number, id: number, name: string): Buffer {
  return optionReply(option, reply.META_CONTEXT, Buffer.concat([uint32(id), Buffer.from(name)]))
}

function uint16(value: number): Buffer {
  const data = Buffer.alloc(2)
  data.writeUInt16BE(value)
  return data
}

function uint32(value: number): Buffer {
  const data = Buffer.alloc(4)
  data.writeUInt32BE(value)
  return data
}
