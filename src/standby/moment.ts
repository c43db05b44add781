/**
 * A moment of a group's history as people name it (`--at`):
 *
 *   INCARNATION:SEQUENCE   the position of a record; SEQUENCE alone: of the newest incarnation
 *   2026-11-29T08:15:00Z   a time; without Z or an offset that of this host
 *   -90s, -2h              so long ago
 *   any other text         the label of a point (points.ts)
 *
 * Guarantees: no text has two meanings; what looks like a time or a position and is none is refused, not taken for a label.
 * Does not: know which moments there are (history.ts).
 */
import { UsageError } from '../core/errors.js'
import { parseAge } from '../core/units.js'

export type Moment =
  /** Without an incarnation: of the newest. */
  | { kind: 'position'; incarnation?: bigint; sequence: bigint }
  | { kind: 'time'; timeNs: bigint }
  | { kind: 'label'; label: string }

const examples = "write it like 17:4711, 4711, 2026-11-29T08:15:00Z, -90s, or a point's label"
const incarnationMax = (1n << 64n) - 1n
const sequenceMax = (1n << 63n) - 1n
/** Beyond it Date knows no time; far enough. */
const ageMsMax = 100 * 365 * 86_400_000

/** `nowMs`: what -90s counts from. */
export function parseMoment(given: string, nowMs: number): Moment {
  const text = given.trim()
  if (text === '') throw new UsageError(`the moment is empty; ${examples}`)
  if (/^\d*(?::\d*)?$/.test(text)) return parsePosition(text)
  if (text.startsWith('-')) return { kind: 'time', timeNs: BigInt(nowMs - parseAgo(text)) * 1_000_000n }
  if (/^\d{4}-\d{2}-\d{2}/.test(text)) return { kind: 'time', timeNs: parseTime(text) }
  return { kind: 'label', label: text }
}

/** What a point may be called. */
export function checkLabel(label: string): string {
  const text = label.trim()
  if (text === '') throw new UsageError('the label is empty')
  if (text.length > labelMax) throw new UsageError(`the label is longer than ${labelMax} characters`)
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f-\u009f]/.test(text)) throw new UsageError('the label contains a control character')
  if (text === cleanStopLabel)
    throw new UsageError(`'${text}' is what the points are called that a master makes by itself when it stops`)
  if (/^\d*(?::\d*)?$/.test(text) || text.startsWith('-') || /^\d{4}-\d{2}-\d{2}/.test(text))
    throw new UsageError(`the label '${text}' would be taken for a position or a time; begin it with a word`)
  return text
}

export const labelMax = 100
/** Of the points that a master makes by itself. */
export const cleanStopLabel = 'clean-stop'

function parsePosition(text: string): Moment {
  const [first, second] = text.split(':')
  const sequence = second ?? first ?? ''
  if (sequence === '' || first === '' || text.length > 41)
    throw new UsageError(`'${text}' is not a position; ${examples}`)
  if (BigInt(sequence) > sequenceMax) throw new UsageError(`'${text}': no sequence is as large as ${sequence}`)
  if (second === undefined) return { kind: 'position', sequence: BigInt(sequence) }
  const incarnation = BigInt(first ?? '')
  if (incarnation < 1n || incarnation > incarnationMax)
    throw new UsageError(`'${text}': ${first} is no incarnation; it is 1 to ${incarnationMax}`)
  return { kind: 'position', incarnation, sequence: BigInt(sequence) }
}

function parseAgo(text: string): number {
  const ageMs = parseAge(text.slice(1))
  if (ageMs > ageMsMax) throw new UsageError(`'${text}' is more than a hundred years ago`)
  return ageMs
}

const timePattern =
  /^(\d{4})-(\d{2})-(\d{2})[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?\s*(?:(Z)|([+-])(\d{2}):?(\d{2}))?$/i

/** Nanoseconds since 1970. */
function parseTime(text: string): bigint {
  const match = timePattern.exec(text)
  if (match === null)
    throw new UsageError(
      `'${text}' is not a time; write it like 2026-11-29T08:15:00Z or "2026-11-29 08:15:00.250 +01:00"`,
    )
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = match
    .slice(1, 7)
    .map(part => Number(part ?? 0))
  const days = new Date(Date.UTC(year, month, 0)).getUTCDate()
  if (month < 1 || month > 12 || day < 1 || day > days || hour > 23 || minute > 59 || second > 59)
    throw new UsageError(`'${text}': there is no such day or time of day`)
  const [fraction = '', utc, sign, offsetHours, offsetMinutes] = match.slice(7, 12)
  if (Number(offsetHours ?? 0) > 14 || Number(offsetMinutes ?? 0) > 59)
    throw new UsageError(`'${text}': there is no such time zone`)
  const isLocal = utc === undefined && sign === undefined
  const offset = (Number(offsetHours ?? 0) * 60 + Number(offsetMinutes ?? 0)) * (sign === '-' ? -1 : 1)
  const milliseconds = isLocal
    ? new Date(year, month - 1, day, hour, minute, second).getTime()
    : Date.UTC(year, month - 1, day, hour, minute, second) - offset * 60_000
  return BigInt(milliseconds) * 1_000_000n + BigInt(fraction.padEnd(9, '0'))
}
