/**
 * What people type and read: sizes, durations, addresses, peers and ranges. Parsers throw UsageError with the text and
 * an example of what would be right; they never guess.
 */
import { UsageError } from './errors.js'

export type ListenAddress = { kind: 'unix'; path: string } | ({ kind: 'tcp' } & HostPort)

export interface HostPort {
  host: string
  /** 0..65535; 0 where listening on any free port makes sense. */
  port: number
}

/** A standby, by key: the connection is refused unless the key at that address has this fingerprint. */
export interface PeerAddress extends HostPort {
  /** 64 lower-case hexadecimal digits. */
  id: string
}

/** Bytes [start, end). */
export interface ByteRange {
  start: bigint
  end: bigint
}

const sizeUnits: Record<string, bigint> = {
  '': 1n,
  b: 1n,
  k: 1n << 10n,
  kib: 1n << 10n,
  kb: 1000n,
  m: 1n << 20n,
  mib: 1n << 20n,
  mb: 1000n ** 2n,
  g: 1n << 30n,
  gib: 1n << 30n,
  gb: 1000n ** 3n,
  t: 1n << 40n,
  tib: 1n << 40n,
  tb: 1000n ** 4n,
  p: 1n << 50n,
  pib: 1n << 50n,
  pb: 1000n ** 5n,
}

const sizeMax = (1n << 63n) - 1n

/** "4096", "64MiB", "1G" (powers of 1024), "10GB" (powers of 1000). Whole bytes only. */
export function parseSizeBig(text: string): bigint {
  const match = /^(\d{1,19})\s*([A-Za-z]*)$/.exec(text.trim())
  const unit = match === null ? undefined : sizeUnits[(match[2] ?? '').toLowerCase()]
  if (match === null || unit === undefined)
    throw new UsageError(`'${text}' is not a size; write it like 4096, 64MiB or 1G`)
  const bytes = BigInt(match[1] ?? '0') * unit
  if (bytes > sizeMax) throw new UsageError(`size '${text}' is larger than ${formatSize(sizeMax)}`)
  return bytes
}

/** As parseSizeBig, for sizes that fit a number exactly. */
export function parseSize(text: string): number {
  const bytes = parseSizeBig(text)
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) throw new UsageError(`size '${text}' is larger than 8PiB`)
  return Number(bytes)
}

/** "0 B", "4.0 KiB", "64 MiB": three digits at most. */
export function formatSize(bytes: number | bigint): string {
  let value = Number(bytes)
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB']
  let unit = 0
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  const digits = unit === 0 || Number.isInteger(value) || value >= 99.95 ? 0 : 1
  return `${value.toFixed(digits)} ${units[unit] ?? ''}`
}

const durationUnits: Record<string, number> = {
  ms: 1,
  s: 1000,
  '': 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}

/** "500ms", "5s", "2m", "1h", "7d"; a bare number is seconds. Returns milliseconds, at most 2^31 - 1 (what timers take). */
export function parseDuration(text: string): number {
  const milliseconds = parseAge(text)
  if (milliseconds > 0x7fffffff) throw new UsageError(`duration '${text}' is longer than 24 days`)
  return milliseconds
}

/** The same without that maximum, for what no timer waits for: "90d". */
export function parseAge(text: string): number {
  const match = /^(\d{1,12}(?:\.\d{1,6})?)\s*([a-z]*)$/.exec(text.trim().toLowerCase())
  const unit = match === null ? undefined : durationUnits[match[2] ?? '']
  if (match === null || unit === undefined)
    throw new UsageError(`'${text}' is not a duration; write it like 500ms, 5s or 2m`)
  return Math.round(Number(match[1]) * unit)
}

/** Bytes a second: "50MiB", "50MiB/s". */
export function parseRate(text: string): number {
  const rate = parseSize(text.trim().replace(/\/s$/, ''))
  if (rate < 1024) throw new UsageError(`'${text}' is less than 1KiB a second`)
  return rate
}

/** "850 ms", "12.3 s", "4m 05s", "3h 20m". */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`
  const seconds = milliseconds / 1000
  if (seconds < 100) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${String(whole % 60).padStart(2, '0')}s`
  return `${Math.floor(whole / 3600)}h ${String(Math.floor((whole % 3600) / 60)).padStart(2, '0')}m`
}

const hostPortHint = 'write it like 127.0.0.1:10809, standby.example:7400 or [::1]:10809'

/** "HOST:PORT" or "[V6]:PORT". The host is not resolved here. */
export function parseHostPort(text: string): HostPort {
  const match = /^(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:[\]@/]+)):(\d{1,5})$/.exec(text.trim())
  if (match === null) throw new UsageError(`'${text}' is not HOST:PORT; ${hostPortHint}`)
  const port = Number(match[3])
  if (port > 65535) throw new UsageError(`'${text}': port ${port} is larger than 65535`)
  return { host: match[1] ?? match[2] ?? '', port }
}

/** sun_path holds 108 bytes with its terminator. */
const unixPathBytesMax = 107

/** "unix:PATH" or HOST:PORT. */
export function parseAddress(text: string): ListenAddress {
  if (!text.startsWith('unix:')) {
    if (text.startsWith('/')) throw new UsageError(`'${text}' is not an address; a unix socket is written unix:${text}`)
    return { kind: 'tcp', ...parseHostPort(text) }
  }
  const path = text.slice('unix:'.length)
  if (path === '')
    throw new UsageError(`'${text}': the path of the socket is missing; write it like unix:/run/understudy.sock`)
  const bytes = Buffer.byteLength(path)
  if (bytes > unixPathBytesMax) {
    throw new UsageError(
      `'${text}': the path of a unix socket has at most ${unixPathBytesMax} bytes, this one has ${bytes}`,
    )
  }
  if (path.includes('\0')) throw new UsageError('the path of a unix socket cannot contain a zero byte')
  return { kind: 'unix', path }
}

export function formatHostPort(address: HostPort): string {
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`
}

export function formatAddress(address: ListenAddress): string {
  return address.kind === 'unix' ? `unix:${address.path}` : formatHostPort(address)
}

/** 127/8, ::1 and localhost: reachable from this host only. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host) || /^::ffff:127\./i.test(host)
}

/** What an NBD client is told: nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH; nbds for one that must use TLS. */
export function nbdUri(address: ListenAddress, exportName: string, tlsRequired = false): string {
  const scheme = tlsRequired ? 'nbds' : 'nbd'
  const name = encodeURIComponent(exportName)
  if (address.kind === 'tcp') return `${scheme}://${formatHostPort(address)}/${name}`
  const path = address.path.split('/').map(encodeURIComponent).join('/')
  return `${scheme}+unix:///${name}?socket=${path}`
}

const idPattern = /^[0-9a-f]{64}$/

/** A fingerprint as `understudy identity` prints it. */
export function parseId(text: string): string {
  const id = text.trim().toLowerCase()
  if (!idPattern.test(id)) {
    throw new UsageError(`'${text}' is not an id; it has 64 hexadecimal digits, as 'understudy identity' prints it`)
  }
  return id
}

/** "ID@HOST:PORT". */
export function parsePeer(text: string): PeerAddress {
  const at = text.indexOf('@')
  if (at < 0) throw new UsageError(`'${text}' is not ID@HOST:PORT; 'understudy identity' on the standby prints its id`)
  const id = parseId(text.slice(0, at))
  const address = parseHostPort(text.slice(at + 1))
  if (address.port === 0) throw new UsageError(`'${text}': port 0 cannot be connected to`)
  return { id, ...address }
}

export function formatPeer(peer: PeerAddress): string {
  return `${peer.id}@${formatHostPort(peer)}`
}

/** "partition=N", from 1. */
export function parsePartition(text: string): number {
  const match = /^partition=(\d{1,3})$/.exec(text.trim())
  const number = Number(match?.[1] ?? 0)
  if (number < 1) throw new UsageError(`'${text}' is not a partition; write it like partition=1`)
  return number
}

/** "START-END" (END not included) or "START+LENGTH", both sizes: "0-1MiB", "4GiB+512MiB". */
export function parseRange(text: string): ByteRange {
  const match = /^\s*([^-+]+?)\s*([-+])\s*([^-+]+?)\s*$/.exec(text)
  if (match === null) throw new UsageError(`'${text}' is not a range; write it like 0-1MiB or 4GiB+512MiB`)
  const start = parseSizeBig(match[1] ?? '')
  const second = parseSizeBig(match[3] ?? '')
  const end = match[2] === '+' ? start + second : second
  if (end <= start) throw new UsageError(`range '${text}' is empty: its end is not after its start`)
  return { start, end }
}

export function formatRange(range: ByteRange): string {
  return `${range.start}-${range.end}`
}
