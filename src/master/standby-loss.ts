/** A standby that is lost, in words for the log and for the session's end. */
import { formatStandbyLoss, type GroupConfig } from '../core/config-types.js'
import { formatDuration } from '../core/units.js'

export function whyDetached(reason: string): string {
  const known: Record<string, string> = {
    'log-full': 'the replication log is full',
    'log-file': 'the log file failed',
    'max-lag': 'the standby lagged behind by more than max_lag',
    requested: 'as requested',
  }
  return known[reason] ?? reason
}

export function awayWords({ peerTimeoutMs, standbyLoss }: GroupConfig): string {
  const clients =
    standbyLoss.policy === 'block' ? `clients wait (${formatStandbyLoss(standbyLoss)})` : 'clients go on without it'
  return `the standby made no progress for ${formatDuration(peerTimeoutMs)}: ${clients}`
}
