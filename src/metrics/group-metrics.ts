/** What a group counts in its page: watermarks of both roles; detaches, back-pressure and the link of a master. */
import { standbyWatermarks, watermarks, type GroupCounter, type WatermarkName } from './counter-names.js'
import type { MetricDefinition, Sample } from './definitions.js'
import { counter, type GroupSnapshot, type Snapshot } from './source.js'

const labels = ['group', 'role'] as const

const meanings: Record<WatermarkName, string> = {
  written: 'up to the last one assigned on the master',
  sent: 'handed to the link',
  received: "in the standby's memory",
  durable: "on the standby's stable storage",
  committed: 'known to have an outcome on the master',
  applied: "in the standby's image",
}

const detachReasons = {
  'log-full': 'detaches_log_full',
  'log-file': 'detaches_log_file',
  'peer-timeout': 'detaches_peer_timeout',
  'max-lag': 'detaches_max_lag',
  requested: 'detaches_requested',
} as const

export const groupMetrics: MetricDefinition[] = [
  ...watermarks.flatMap(watermarkMetrics),
  {
    name: 'understudy_detaches_total',
    type: 'counter',
    labels: [...labels, 'reason'],
    help: 'How often clients began to go on without the standby: peer-timeout: it made no progress, the log is kept; the others: the log was given up for the dirty map.',
    samples: ({ masters }) =>
      masters.flatMap(group =>
        Object.entries(detachReasons).map(([reason, name]) => ({
          labels: { ...ofGroup(group), reason },
          value: counter(group.counters, name),
        })),
      ),
  },
  masterMetric(
    'counter',
    'understudy_alone_flushes_total',
    'Flushes that were answered without the standby.',
    'alone_flushes',
  ),
  masterMetric(
    'counter',
    'understudy_lease_stalls_total',
    'How often a lease ran out, so that clients had to wait for another one.',
    'lease_stalls',
  ),
  masterMetric(
    'counter',
    'understudy_backpressure_seconds_total',
    'Time for which clients waited because the log was full.',
    'backpressure_ns',
    1e9,
  ),
  masterMetric(
    'gauge',
    'understudy_log_file_bytes',
    'Bytes of the log that are in its file; 0 without one.',
    'log_file_bytes',
  ),
  masterMetric(
    'gauge',
    'understudy_log_file_max_bytes',
    'Most bytes the log may hold in its file; 0 without one.',
    'log_file_bytes_max',
  ),
  masterMetric(
    'gauge',
    'understudy_log_file_errno',
    "Why the log's file cannot be used at present, as an errno; 0 if all is well, or without one.",
    'log_file_errno',
  ),
  masterMetric(
    'counter',
    'understudy_voids_total',
    'Records that failed on the master and were followed by a void.',
    'voids',
  ),
  masterMetric(
    'gauge',
    'understudy_resync_sent_bytes',
    'Bytes of the running or last resynchronisation that differed and were sent.',
    'resync_sent_bytes',
  ),
  masterMetric(
    'counter',
    'understudy_given_back_bytes_total',
    'Bytes that the standby gave back after this host had lost its memory.',
    'given_back_bytes',
  ),
  masterMetric(
    'gauge',
    'understudy_unreadable_bytes',
    'Bytes that the master device refused to read for a resynchronisation.',
    'unreadable_bytes',
  ),
  masterMetric(
    'gauge',
    'understudy_link_away',
    '1 while the standby counts as away: no progress for the peer timeout, else 0.',
    'away',
  ),
  masterMetric(
    'gauge',
    'understudy_link_session',
    '1 while a session with the standby is established, else 0.',
    'session',
  ),
  {
    name: 'understudy_link_rtt_seconds',
    type: 'gauge',
    labels,
    help: 'Smoothed round-trip time of the session; 0 without one.',
    samples: linkRtt,
  },
  masterMetric(
    'gauge',
    'understudy_link_congestion_window_bytes',
    'Congestion window of the session; 0 without one.',
    'session_cwnd_bytes',
  ),
  masterMetric(
    'gauge',
    'understudy_link_packet_bytes',
    'UDP payload of a full packet of the session; 0 without one.',
    'session_packet_bytes',
  ),
  masterMetric('counter', 'understudy_link_packets_sent_total', 'Packets sent by the session.', 'session_packets_sent'),
  masterMetric(
    'counter',
    'understudy_link_packets_received_total',
    'Packets received by the session.',
    'session_packets_received',
  ),
  masterMetric(
    'counter',
    'understudy_link_packets_lost_total',
    'Packets of the session that were declared lost.',
    'session_packets_lost',
  ),
  masterMetric(
    'counter',
    'understudy_link_bytes_sent_total',
    'Bytes of UDP payload sent by the session.',
    'session_bytes_sent',
  ),
  masterMetric(
    'counter',
    'understudy_link_bytes_received_total',
    'Bytes of UDP payload received by the session.',
    'session_bytes_received',
  ),
  masterMetric(
    'counter',
    'understudy_link_retransmitted_bytes_total',
    'Bytes the session had to send again.',
    'session_bytes_retransmitted',
  ),
  masterMetric(
    'counter',
    'understudy_link_compress_raw_bytes_total',
    'Bytes of the record stream that left in batches, before they were compressed; 0 without --compress.',
    'compress_raw_bytes',
  ),
  masterMetric(
    'counter',
    'understudy_link_compress_sent_bytes_total',
    'What became of them, with the headers of the batches.',
    'compress_sent_bytes',
  ),
  masterMetric(
    'counter',
    'understudy_link_reconnects_total',
    'Sessions that were established after the first one.',
    'reconnects',
  ),
]

function watermarkMetrics(mark: WatermarkName): MetricDefinition[] {
  const groupsOf = (snapshot: Snapshot) => [
    ...snapshot.masters,
    ...(standbyWatermarks.includes(mark) ? snapshot.standbys : []),
  ]
  const samples =
    (name: string): MetricDefinition['samples'] =>
    snapshot =>
      groupsOf(snapshot).map(group => ({ labels: ofGroup(group), value: counter(group.counters, name) }))
  const incarnation = 'in this incarnation of the master'
  return [
    {
      name: `understudy_${mark}_records_total`,
      type: 'counter',
      labels,
      help: `Records ${meanings[mark]}, ${incarnation}.`,
      samples: samples(`${mark}_sequence`),
    },
    {
      name: `understudy_${mark}_bytes_total`,
      type: 'counter',
      labels,
      help: `Bytes of client writes ${meanings[mark]}, ${incarnation}.`,
      samples: samples(`${mark}_bytes`),
    },
  ]
}

function masterMetric(
  type: 'counter' | 'gauge',
  name: string,
  help: string,
  from: GroupCounter,
  divisor = 1,
): MetricDefinition {
  const samples: MetricDefinition['samples'] = ({ masters }) =>
    masters.map(group => ({ labels: ofGroup(group), value: counter(group.counters, from) / divisor }))
  return { name, type, labels, help, samples }
}

/** A master's link counts in its page; a standby's session is known from its status. */
function linkRtt({ masters, groupStatus }: Snapshot): Sample[] {
  const ofMasters = masters.map(group => ({
    labels: ofGroup(group),
    value: counter(group.counters, 'session_rtt_ns') / 1e9,
  }))
  const ofStandbys = groupStatus
    .filter(status => status.role === 'standby')
    .map(status => ({ labels: { group: status.group, role: status.role }, value: status.peers[0]?.rttSeconds ?? 0 }))
  return [...ofMasters, ...ofStandbys]
}

function ofGroup({ group, role }: GroupSnapshot): Record<string, string> {
  return { group, role }
}
