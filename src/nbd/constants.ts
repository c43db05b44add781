/**
 * The numbers of the NBD protocol, under the names they have in its specification: NetworkBlockDevice/nbd, doc/proto.md
 * (section "Values"), and for extended headers the same file on the branch extension-ext-header. Only what the
 * handshake says or hears; requests and their replies are native (native/wire).
 */

export const NBD_MAGIC = 0x4e42444d41474943n
export const NBD_OPTS_MAGIC = 0x49484156454f5054n
export const NBD_REP_MAGIC = 0x0003e889045565a9n

/** Handshake flags, by the server (16 bits). */
export const handshakeFlag = {
  FIXED_NEWSTYLE: 1 << 0,
  NO_ZEROES: 1 << 1,
} as const

/** Client flags, the answer to those (32 bits). Any other bit ends the connection. */
export const clientFlag = {
  C_FIXED_NEWSTYLE: 1 << 0,
  C_NO_ZEROES: 1 << 1,
} as const

/** Transmission flags of an export (16 bits). */
export const transmissionFlag = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
} as const

export const option = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const

const error = (number: number): number => 2 ** 31 + number

export const reply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: error(1),
  ERR_POLICY: error(2),
  ERR_INVALID: error(3),
  ERR_PLATFORM: error(4),
  ERR_TLS_REQD: error(5),
  ERR_UNKNOWN: error(6),
  ERR_SHUTDOWN: error(7),
  ERR_BLOCK_SIZE_REQD: error(8),
  ERR_TOO_BIG: error(9),
  ERR_EXT_HEADER_REQD: error(10),
} as const

export const info = {
  EXPORT: 0,
  NAME: 1,
  DESCRIPTION: 2,
  BLOCK_SIZE: 3,
} as const

/** "MUST be no longer than 4096 bytes": names, descriptions, queries, messages. */
export const stringBytesMax = 4096

/** The reserved zeroes after the answer to EXPORT_NAME, unless NO_ZEROES was agreed. */
export const exportNameZeroBytes = 124

/** What a client may assume that was told nothing (proto.md, "Size constraints"). */
export const defaultBlock = { min: 1, preferred: 4096, maxAtLeast: 1 << 25 } as const

export interface MetaContext {
  /** A query for it alone stands for all of it, in NBD_OPT_LIST_META_CONTEXT. */
  namespace: string
  name: string
  /** Ours to choose. */
  id: number
}

export const metaContext = {
  allocation: { namespace: 'base:', name: 'base:allocation', id: 1 },
  /** docs/nbd.md, "What is replicated, from outside" */
  replicated: { namespace: 'understudy:', name: 'understudy:replicated', id: 2 },
  dirty: { namespace: 'understudy:', name: 'understudy:dirty', id: 3 },
} as const satisfies Record<string, MetaContext>

const optionNames = new Map<number, string>(Object.entries(option).map(([name, number]) => [number, `NBD_OPT_${name}`]))

/** For messages: "NBD_OPT_GO" or "option 77". */
export function optionName(number: number): string {
  return optionNames.get(number) ?? `option ${number}`
}
