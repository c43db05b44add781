/**
 * The keys of a [[group]] that say what link and resynchronisation may take, and what a lost or slow standby means; and
 * what a standby's history may take.
 */
import type { TableReader } from './config-reader.js'
import {
  compressions,
  defaults,
  type GroupConfig,
  type HistoryLimits,
  onMaxLags,
  onStandbyLosses,
  type StandbyLoss,
} from './config-types.js'
import { UsageError } from './errors.js'
import { nearest } from './nearest.js'
import { formatSize, parseAge, parseDuration, parseRate, parseSize } from './units.js'

type Policies = Pick<GroupConfig, 'bandwidth' | 'compress' | 'resyncRate' | 'standbyLoss' | 'maxLag' | 'onMaxLag'>

export function readPolicies(table: TableReader): Policies {
  const maxLag = table.parsed('max_lag', parseMaxLag, true) ?? { bytes: 0, milliseconds: 0 }
  if (table.has('on_max_lag') && !table.has('max_lag'))
    table.fail('on_max_lag', 'it says what happens beyond max_lag, which is not given')
  return {
    bandwidth: table.parsed('bandwidth', parseLimit, true) ?? 0,
    compress: table.oneOf('compress', compressions, defaults.compress),
    resyncRate: table.parsed('resync_rate', parseLimit, true) ?? 0,
    standbyLoss: table.parsed('on_standby_loss', parseStandbyLoss) ?? { policy: defaults.onStandbyLoss },
    maxLag,
    onMaxLag: table.oneOf('on_max_lag', onMaxLags, defaults.onMaxLag),
  }
}

/** Bytes a second; 0: no limit. */
function parseLimit(text: string): number {
  return text.trim() === '0' ? 0 : parseRate(text)
}

/** "continue", "block", "block:30s". */
function parseStandbyLoss(text: string): StandbyLoss {
  const timed = /^block:(.+)$/.exec(text)
  if (timed !== null) {
    const blockMs = parseDuration(timed[1] ?? '')
    if (blockMs < 1) throw new UsageError(`'${text}': the time is 0; write continue, or block for no end`)
    return { policy: 'block', blockMs }
  }
  const policy = onStandbyLosses.find(word => word === text)
  if (policy !== undefined) return { policy }
  const near = nearest(text, onStandbyLosses)
  const hint = near === undefined ? '' : ` (did you mean '${near}'?)`
  throw new UsageError(`'${text}' is not one of ${onStandbyLosses.join(', ')}, block:TIME${hint}`)
}

/** "1GiB", "30s", or both: "1GiB,30s". What has a unit of time is a time. */
function parseMaxLag(text: string): GroupConfig['maxLag'] {
  const lag = { bytes: 0, milliseconds: 0 }
  for (const part of text.split(',')) {
    if (isTime(part)) lag.milliseconds = parseDuration(part)
    else lag.bytes = parseSize(part)
  }
  if (lag.bytes === 0 && lag.milliseconds === 0)
    throw new UsageError(`'${text}' is no limit; write it like 1GiB, 30s or 1GiB,30s`)
  if (lag.bytes > 0 && lag.bytes < lagBytesMin)
    throw new UsageError(`'${text}': less than 64KiB, what a client may write in one piece, would stop every write`)
  if (lag.milliseconds > 0 && lag.milliseconds < lagMsMin)
    throw new UsageError(`'${text}': no standby is that fast; at least ${lagMsMin}ms`)
  return lag
}

function isTime(text: string): boolean {
  const unit = /[a-z]*$/.exec(text.trim())?.[0] ?? ''
  if (unit === 'm') throw new UsageError(`'${text}': megabytes or minutes? Write it like 64MiB or 2min`)
  return ['ms', 's', 'min', 'h', 'd'].includes(unit)
}

/** "24h", "100GiB", or both: "24h,100GiB". What has a unit of time is a time. */
export function parseHistory(text: string): HistoryLimits {
  const history = { ageMs: 0, bytes: 0 }
  const parts = text.split(',')
  const times = parts.filter(isTime)
  if (times.length > 1 || parts.length - times.length > 1)
    throw new UsageError(`'${text}' says it twice; write it like 24h, 100GiB or 24h,100GiB`)
  for (const part of parts) {
    if (isTime(part)) history.ageMs = parseAge(part)
    else history.bytes = parseSize(part)
  }
  const { ageMs, bytes } = history
  if (ageMs === 0 && bytes === 0)
    throw new UsageError(`'${text}' keeps nothing; write it like 24h, 100GiB or 24h,100GiB, or leave it out`)
  if (bytes > 0 && bytes < defaults.historyBytesMin)
    throw new UsageError(`${text} is too small: a history needs at least ${formatSize(defaults.historyBytesMin)}`)
  return history
}

const lagBytesMin = 64 << 10
const lagMsMin = 100
