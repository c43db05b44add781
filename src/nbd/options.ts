/**
 * The payloads of options, taken apart. Nothing here reads past the payload: every length is checked against what is
 * left before it is used. A length that contradicts its frame is ERR_INVALID, a string that is consistent but longer
 * than 4096 bytes ERR_TOO_BIG.
 */
import { UnderstudyError } from '../core/errors.js'
import { reply, stringBytesMax } from './constants.js'

/** Becomes an error reply of this type, with the message as its text; the haggling goes on. */
export class OptionRefusal extends UnderstudyError {
  readonly type: number

  constructor(type: number, message: string) {
    super('NBD_OPTION', message)
    this.type = type
  }
}

export interface InfoRequest {
  name: string
  /** NBD_INFO_* asked for, unknown ones included. */
  requests: Set<number>
}

export interface MetaContextRequest {
  name: string
  queries: string[]
}

/** NBD_OPT_INFO and NBD_OPT_GO: 32-bit length, name, 16-bit count, that many 16-bit requests. */
export function parseInfoRequest(payload: Buffer): InfoRequest {
  const cursor = new Cursor(payload)
  const name = cursor.string('name')
  const count = cursor.uint16('number of information requests')
  const requests = new Set<number>()
  for (let index = 0; index < count; index++) requests.add(cursor.uint16('information request'))
  cursor.end()
  return { name, requests }
}

/** NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: name, 32-bit count, that many strings. */
export function parseMetaContextRequest(payload: Buffer): MetaContextRequest {
  const cursor = new Cursor(payload)
  const name = cursor.string('name')
  const count = cursor.uint32('number of queries')
  const queries: string[] = []
  // Each query takes 4 bytes at least, so the payload bounds the loop, whatever the count says.
  for (let index = 0; index < count; index++) queries.push(cursor.string('query'))
  cursor.end()
  return { name, queries }
}

/** NBD_OPT_EXPORT_NAME: the whole payload is the name. */
export function parseExportName(payload: Buffer): string {
  return decodeString(payload, 'name')
}

class Cursor {
  readonly #data: Buffer
  #at = 0

  constructor(data: Buffer) {
    this.#data = data
  }

  uint16(what: string): number {
    return this.#take(2, what).readUInt16BE()
  }

  uint32(what: string): number {
    return this.#take(4, what).readUInt32BE()
  }

  string(what: string): string {
    const bytes = this.uint32(`length of the ${what}`)
    return decodeString(this.#take(bytes, what), what)
  }

  end(): void {
    const left = this.#data.length - this.#at
    if (left > 0) throw new OptionRefusal(reply.ERR_INVALID, `${left} bytes too many in the option's data`)
  }

  #take(bytes: number, what: string): Buffer {
    const left = this.#data.length - this.#at
    if (bytes > left) {
      throw new OptionRefusal(reply.ERR_INVALID, `the ${what} needs ${bytes} bytes, the option's data has ${left} left`)
    }
    this.#at += bytes
    return this.#data.subarray(this.#at - bytes, this.#at)
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** proto.md, "Conventions": UTF-8, no NUL, at most 4096 bytes. */
function decodeString(data: Buffer, what: string): string {
  if (data.length > stringBytesMax) {
    throw new OptionRefusal(
      reply.ERR_TOO_BIG,
      `the ${what} has ${data.length} bytes; at most ${stringBytesMax} are allowed`,
    )
  }
  if (data.includes(0)) throw new OptionRefusal(reply.ERR_INVALID, `the ${what} contains a zero byte`)
  try {
    return utf8.decode(data)
  } catch {
    throw new OptionRefusal(reply.ERR_INVALID, `the ${what} is not UTF-8`)
  }
}
