/**
 * The names of the addon's counters that metrics are made of. A test holds them against Addon.counterLayout(): a name
 * that is misspelt on either side would otherwise be a metric that stays 0 for ever.
 */
import type { PageKind } from '../native/counters.js'

export const watermarks = ['written', 'sent', 'received', 'durable', 'committed', 'applied'] as const
export type WatermarkName = (typeof watermarks)[number]

/** The standby knows how far it is, not how far the master is ahead. */
export const standbyWatermarks: readonly WatermarkName[] = ['received', 'durable', 'committed', 'applied']

export const requestKinds = ['read', 'write', 'flush', 'trim', 'zero', 'cache', 'block_status'] as const
export type RequestKind = (typeof requestKinds)[number]

export const latencyBuckets = 32

export const groupCounters = [
  'detaches_log_full',
  'detaches_peer_timeout',
  'detaches_requested',
  'detaches_max_lag',
  'detaches_log_file',
  'log_file_bytes',
  'log_file_bytes_max',
  'log_file_errno',
  'alone_flushes',
  'backpressure_ns',
  'voids',
  'reconnects',
  'resync_sent_bytes',
  'given_back_bytes',
  'unreadable_bytes',
  'away',
  'lease_stalls',
  'session',
  'session_rtt_ns',
  'session_cwnd_bytes',
  'session_packet_bytes',
  'session_packets_sent',
  'session_packets_received',
  'session_packets_lost',
  'session_bytes_sent',
  'session_bytes_received',
  'session_bytes_retransmitted',
  'compress_raw_bytes',
  'compress_sent_bytes',
] as const
export type GroupCounter = (typeof groupCounters)[number]

export const replicaCounters = [
  'phase',
  'segments',
  'segment_bytes',
  'segment_syncs',
  'image_syncs',
  'staged_bytes',
  'staging_bytes_max',
  'staging_full',
  'records_received',
  'records_applied',
  'verify_equal',
  'verify_different',
  'last_heard_ns',
  'errors',
  'last_errno',
] as const
export type ReplicaCounter = (typeof replicaCounters)[number]

/** Every counter the metrics read, by page. */
export function countersRead(): Record<PageKind, string[]> {
  const marks = (names: readonly string[]) => names.flatMap(name => [`${name}_sequence`, `${name}_bytes`])
  const ofKind = (kind: RequestKind) => [
    `requests_${kind}`,
    `bytes_${kind}`,
    `errors_${kind}`,
    `latency_sum_ns_${kind}`,
    ...Array.from({ length: latencyBuckets }, (_, bucket) => `latency_${kind}_${bucket}`),
  ]
  return {
    group: [...marks(watermarks), ...groupCounters],
    volume: ['connections', 'hot_bytes', 'map_stored', 'left_out_bytes', ...requestKinds.flatMap(ofKind)],
    replica: [...marks(standbyWatermarks), ...replicaCounters],
  }
}

/** Counters that the metrics read and `layout` lacks, as "page.name". */
export function missingCounters(layout: Partial<Record<PageKind, Record<string, number>>>): string[] {
  return Object.entries(countersRead()).flatMap(([kind, names]) =>
    names.filter(name => layout[kind as PageKind]?.[name] === undefined).map(name => `${kind}.${name}`),
  )
}
