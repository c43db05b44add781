/**
 * Leases, on both sides: a master with a lease answers clients only while it holds one of its standby's, and a standby is
 * not promoted by --accept-loss before the last one it granted is over. So the two never answer at once.
 *
 * The master stops a margin early, and the standby waits a margin longer: for clocks that run at different rates, and for
 * what lies between the master's last look at the clock and the bytes' leaving its host.
 */
import { SafetyRefusal, UsageError } from './errors.js'
import { formatDuration, parseDuration } from './units.js'

export const leaseMsMin = 2_000
export const leaseMsMax = 3_600_000

/** Of clocks that are wrong by 1 %, when 0.05 % is much; and a tenth of a second for a thread that does not get to run. */
const marginOf = (leaseMs: number): number => Math.max(100, Math.ceil(leaseMs / 100))

/** For how long a master uses a lease, counted from when it asked for it. */
export const usableMs = (leaseMs: number): number => leaseMs - marginOf(leaseMs)

/** For how long a standby takes a lease to be used, counted from when it granted it. */
export const fencedMs = (leaseMs: number): number => leaseMs + marginOf(leaseMs)

/** Throws: on either side. */
export function refusePause(name: string, leaseMs: number): never {
  throw new SafetyRefusal(
    'LEASE',
    `pause ${name}: the master has a lease (${formatDuration(leaseMs)}), and its clients would wait all the while; restart it without --lease first`,
  )
}

export function parseLease(text: string): number {
  const milliseconds = parseDuration(text)
  if (milliseconds >= leaseMsMin && milliseconds <= leaseMsMax) return milliseconds
  throw new UsageError(`'${text}': it must be between ${leaseMsMin / 1000}s and 1h`)
}
