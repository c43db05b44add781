/** A standby's line in `status --json`: what it knows by itself, with or without a session. */
import type { HistoryStatus, PeerStatus, VolumeState, VolumeStatus } from '../core/status-types.js'
import { type Durability, durabilities } from '../core/config-types.js'
import { formatDuration, formatSize } from '../core/units.js'
import type { Counters } from '../native/counters.js'
import type { ReplicaRecord, ReplicaVolume } from './replica-file.js'

/** ReplicaPhase (native/replay/replica.h). */
export const phase = { fresh: 0n, initial: 1n, cut: 2n, staging: 3n, stepping: 4n } as const

export interface StandbyFacts {
  record: ReplicaRecord
  counters: Counters
  /** HOST:PORT of the session; '' without one. */
  sessionAddress: string
  /** What is wrong with the replica itself; '' when nothing is. */
  error: string
  /** Why the master, which this host has to connect to, is not reached; '' when that is not so. */
  away: string
  /** For how long the master may answer its clients without being heard; 0: not at all, or nobody knows. */
  leaseLeftMs: number
  diverged: boolean
  /** Until when a session says that the master was there; 0: there was none. */
  linkHeardMs: number
  sinceMs: number
  nowMs: number
  lagSeconds: number
  /** Undefined: none is kept. */
  history: HistoryStatus | undefined
}

/** What the operator is to decide when a step cannot be collected any further; '' when it can. */
export function stagingTrouble(counters: Counters, volume: string): string {
  if (counters['staging_full'] !== 1n) return ''
  const bytes = formatSize(Number(counters['staging_bytes_max'] ?? 0n))
  return `staging has reached its maximum of ${bytes}, and nothing more is acknowledged: raise it (--staging-size, staging_size), or let the copy be resynchronised in place, not usable until then (understudy invalidate ${volume} --in-place)`
}

/** The copy is a cut: it can be exported and promoted. */
export function isUsable(counters: Counters): boolean {
  return (counters['phase'] ?? phase.fresh) >= phase.cut
}

export function standbyState({
  counters,
  sessionAddress,
  error,
  linkHeardMs,
  nowMs,
  away = '',
  diverged = false,
}: Pick<StandbyFacts, 'counters' | 'sessionAddress' | 'error' | 'linkHeardMs' | 'nowMs'> & {
  away?: string
  diverged?: boolean
}): {
  state: VolumeState
  reason: string
} {
  const now = counters['phase'] ?? phase.fresh
  const unusable = isUsable(counters) ? '' : '; the first copy is not complete, so it is not usable'
  if (sessionAddress === '') {
    const heard = heardText(heardMs(counters, linkHeardMs), nowMs)
    if (diverged) return { state: 'diverged', reason: away }
    return {
      state: 'detached',
      reason: `${error === '' ? '' : `${error}; `}no session with the master${heard}${away === '' ? '' : `; ${away}`}${unusable}`,
    }
  }
  if (now < phase.cut)
    return {
      state: 'initial-sync',
      reason: `the first copy is being made; it is not usable before it is complete${error === '' ? '' : `; ${error}`}`,
    }
  if (now === phase.cut) return { state: 'replicating', reason: error }
  return {
    state: 'resyncing',
    reason: error === '' ? 'a step is being collected; the copy shows the cut before it' : error,
  }
}

/** ", last heard 12 s ago"; '' when it never was. */
export const lastHeard = (counters: Counters, nowMs: number): string => heardText(heardMs(counters, 0), nowMs)

/** An idle master sends no record, and is heard all the same. */
const heardMs = (counters: Counters, linkHeardMs: number): number =>
  Math.max(Number((counters['last_heard_ns'] ?? 0n) / 1_000_000n), linkHeardMs)

function heardText(heardMs: number, nowMs: number): string {
  if (heardMs === 0) return ''
  return `, last heard ${formatDuration(Math.max(0, nowMs - heardMs))} ago (${new Date(heardMs).toISOString()})`
}

export function standbyVolumeStatus(given: StandbyFacts, volume: ReplicaVolume): VolumeStatus {
  const error = stagingTrouble(given.counters, volume.name) || given.error
  const { record, counters, sessionAddress } = given
  const facts = { ...given, error }
  const { state, reason } = standbyState(facts)
  const get = (name: string): bigint => counters[name] ?? 0n
  const lagBytes = get('received_bytes') - get('applied_bytes')
  return {
    name: volume.name,
    group: record.group,
    role: 'standby',
    state,
    reason,
    since: new Date(facts.sinceMs).toISOString(),
    usable: isUsable(counters),
    protected: state === 'replicating' && error === '',
    durability: asDurability(record.durability),
    generation: record.generation,
    written: String(get('received_sequence')),
    sent: String(get('received_sequence')),
    received: String(get('received_sequence')),
    durable: String(get('durable_sequence')),
    committed: String(get('committed_sequence')),
    applied: String(get('applied_sequence')),
    lagBytes: lagBytes > 0n ? Number(lagBytes) : 0,
    lagSeconds: facts.lagSeconds,
    dirtyBytes: 0,
    sizeBytes: Number(volume.sizeBytes),
    logBytes: Number(get('segment_bytes')),
    logMaxBytes: 0,
    ...leaseStatus(record, given.leaseLeftMs),
    stagedBytes: Number(get('staged_bytes')),
    stagingMaxBytes: Number(get('staging_bytes_max')),
    ...(facts.history === undefined ? {} : { history: facts.history }),
    resync: null,
    lastVerify: null,
    peers: [peer(record, sessionAddress, heardMs(counters, given.linkHeardMs))],
  }
}

function leaseStatus({ leaseMs }: ReplicaRecord, leftMs: number): Pick<VolumeStatus, 'lease'> {
  if (leaseMs === undefined) return {}
  return { lease: { seconds: leaseMs / 1000, secondsLeft: leftMs / 1000, inForce: true } }
}

function peer(record: ReplicaRecord, address: string, heardMs: number): PeerStatus {
  const heardAt = heardMs === 0 ? null : new Date(heardMs).toISOString()
  return { id: record.masterId, address, session: address === '' ? 'away' : 'connected', rttSeconds: null, heardAt }
}

function asDurability(text: string): Durability {
  return durabilities.find(word => word === text) ?? 'flush'
}
