/** A master's line in `status --json`, from counters and decisions. */
import type { GroupConfig } from '../core/config-types.js'
import type {
  FilterStatus,
  LastVerify,
  LeaseStatus,
  PeerStatus,
  UnreadableRange,
  VolumeStatus,
} from '../core/status-types.js'
import { formatHostPort } from '../core/units.js'
import type { Counters } from '../native/counters.js'
import { compressionStatus } from './compression.js'
import {
  backlogOf,
  type GroupProgress,
  type GroupState,
  isUsable,
  type LinkFacts,
  type Marks,
  marksOf,
} from './group-progress.js'

export interface MasterStatusFacts {
  config: GroupConfig
  name: string
  sizeBytes: bigint
  direct: boolean
  generation: string
  counters: Counters
  dirtyBytes: bigint
  /** Of all volumes: they are one cut. */
  groupDirtyBytes: bigint
  state: GroupState
  lease: LeaseStatus | undefined
  link: LinkFacts
  progress: GroupProgress
  now: { monotonicMs: number; wallMs: number }
  lastVerify: LastVerify | null
  unreadable: UnreadableRange[]
  filter: FilterStatus | undefined
}

export function masterVolumeStatus(facts: MasterStatusFacts): VolumeStatus {
  const { config, counters, state, progress, now } = facts
  const marks = marksOf(counters)
  return {
    name: facts.name,
    group: config.name,
    role: 'master',
    state: state.state,
    reason: state.reason,
    since: new Date(progress.sinceMs).toISOString(),
    usable: state.state !== 'alone' && isUsable(counters),
    protected: isProtected(facts, marks),
    durability: config.durability,
    generation: facts.generation,
    written: String(marks.written),
    sent: String(marks.sent),
    received: String(marks.received),
    durable: String(marks.durable),
    committed: String(marks.committed),
    applied: String(marks.applied),
    lagBytes:
      state.state === 'alone'
        ? 0
        : Number(marks.writtenBytes > marks.appliedBytes ? marks.writtenBytes - marks.appliedBytes : 0n),
    lagSeconds: state.state === 'alone' ? 0 : progress.lagSeconds(now.monotonicMs, now.wallMs, marks.applied),
    dirtyBytes: Number(facts.dirtyBytes),
    sizeBytes: Number(facts.sizeBytes),
    direct: facts.direct,
    logBytes: Number(counters['log_bytes'] ?? 0n),
    logMaxBytes: Number(counters['log_bytes_max'] ?? 0n),
    ...(facts.lease === undefined ? {} : { lease: facts.lease }),
    backlog: backlogOf(counters, facts.groupDirtyBytes),
    logFileBytes: Number(counters['log_file_bytes'] ?? 0n),
    logFileMaxBytes: Number(counters['log_file_bytes_max'] ?? 0n),
    resync: progress.resync(counters),
    lastVerify: facts.lastVerify,
    unreadable: facts.unreadable,
    peers: peersOf(facts),
    ...(facts.filter === undefined ? {} : { filter: facts.filter }),
  }
}

/** Nothing is dirty, and what is written becomes durable on the standby within the peer timeout. */
function isProtected(
  { config, counters, state, lease, groupDirtyBytes, progress, now }: MasterStatusFacts,
  marks: Marks,
): boolean {
  if (state.state !== 'replicating' || groupDirtyBytes > 0n || counters['behind'] === 1n) return false
  if (lease?.inForce === true && lease.secondsLeft === 0) return false
  return progress.lagSeconds(now.monotonicMs, now.wallMs, marks.durable) * 1000 <= config.peerTimeoutMs
}

function peersOf({ config, link, counters }: MasterStatusFacts): PeerStatus[] {
  if (config.standby === undefined || link.state === undefined) return []
  const rttNs = counters['session_rtt_ns'] ?? 0n
  const hasRtt = link.state === 'connected' && rttNs > 0n
  return [
    {
      id: config.standby.id,
      address: formatHostPort(config.standby),
      session: link.state,
      transport: config.transport === 'quic' ? 'quic' : 'webtransport (TLS over TCP)',
      rttSeconds: hasRtt ? Number(rttNs) / 1e9 : null,
      ...(config.compress === 'off' ? {} : { compression: compressionStatus(config.compress, link, counters) }),
    },
  ]
}
