/** What `status` shows, in the same words: one sample per volume (or group, where the volumes of a group share it). */
import { backlogs } from '../core/status-types.js'
import type { FileRuleStatus, PeerStatus, VolumeState, VolumeStatus } from '../core/status-types.js'
import type { MetricDefinition } from './definitions.js'
import { errorKinds } from './error-counts.js'

const volumeLabels = ['volume', 'group', 'role'] as const
const groupLabels = ['group', 'role'] as const
const states: readonly VolumeState[] = ['initial-sync', 'replicating', 'resyncing', 'detached', 'diverged', 'alone']
const sessions: readonly PeerStatus['session'][] = ['connected', 'connecting', 'away', 'refused']

export const statusMetrics: MetricDefinition[] = [
  {
    name: 'understudy_build_info',
    type: 'gauge',
    labels: ['version', 'node'],
    help: 'Always 1; the labels say which understudy and which Node.js this daemon is.',
    samples: ({ version }) => [{ labels: { version, node: process.version }, value: 1 }],
  },
  {
    name: 'understudy_volume_info',
    type: 'gauge',
    labels: [...volumeLabels, 'durability', 'generation'],
    help: 'Always 1; the labels say what an acknowledgement means for this volume, and its generation.',
    samples: ({ volumes }) =>
      volumes.map(status => ({
        labels: { ...ofVolume(status), durability: status.durability, generation: status.generation },
        value: 1,
      })),
  },
  volumeGauge(
    'understudy_protected',
    '1 if the standby keeps up within the policy and nothing is dirty, else 0.',
    status => Number(status.protected),
  ),
  volumeGauge('understudy_usable', '1 if the copy on the standby can be exported and promoted, else 0.', status =>
    Number(status.usable),
  ),
  {
    name: 'understudy_state',
    type: 'gauge',
    labels: [...volumeLabels, 'state'],
    help: 'The state of the volume: 1 for the one it is in, 0 for the others.',
    samples: ({ volumes }) =>
      volumes.flatMap(status =>
        states.map(state => ({ labels: { ...ofVolume(status), state }, value: Number(status.state === state) })),
      ),
  },
  volumeGauge('understudy_state_since_timestamp_seconds', 'Unix time at which the volume entered its state.', status =>
    unixSeconds(status.since),
  ),
  volumeGauge(
    'understudy_lag_seconds',
    'Age of the oldest write that is not yet applied on the standby.',
    status => status.lagSeconds,
  ),
  volumeGauge('understudy_lag_bytes', 'Bytes written and not yet applied on the standby.', status => status.lagBytes),
  volumeGauge(
    'understudy_dirty_bytes',
    'Bytes that may differ on the standby and have to be compared or sent again.',
    status => status.dirtyBytes,
  ),
  volumeGauge('understudy_size_bytes', 'Size of the volume.', status => status.sizeBytes),
  volumeGauge(
    'understudy_resident_bytes',
    "Of a standby: bytes of the copy that are in the kernel's memory, by mincore, as of the last seconds; else 0.",
    status => status.residency?.residentBytes ?? 0,
  ),
  volumeGauge(
    'understudy_locked_bytes',
    'Of a standby with --cache-size: bytes of the copy that are kept in memory; else 0.',
    status => status.residency?.lockedBytes ?? 0,
  ),
  {
    name: 'understudy_filter_rule_bytes',
    type: 'gauge',
    labels: [...volumeLabels, 'rule', 'kind'],
    help: 'Of a master, for each rule for files: bytes of the device that it leaves out now (kind exclude), or chooses (only).',
    samples: ({ volumes }) =>
      volumes.flatMap(status =>
        (status.filter?.rules ?? []).map(({ rule, kind, bytes }) => ({
          labels: { ...ofVolume(status), rule, kind },
          value: bytes,
        })),
      ),
  },
  {
    name: 'understudy_filter_rule_saved_bytes_total',
    type: 'counter',
    labels: [...volumeLabels, 'rule', 'kind'],
    help: 'Of a master, for each rule for files of kind exclude: its part of understudy_filter_saved_bytes_total. Kind only, rule "": what no such rule chooses.',
    samples: ({ volumes }) =>
      volumes.flatMap(status =>
        savedByRule(status).map(({ rule, kind, value }) => ({ labels: { ...ofVolume(status), rule, kind }, value })),
      ),
  },
  volumeGauge(
    'understudy_filter_left_out_bytes',
    'Of a master with rules for files: bytes of the device that they leave out now; else 0.',
    status => status.filter?.leftOutBytes ?? 0,
  ),
  groupGauge(
    'understudy_log_bytes',
    'Bytes in the log: not yet acknowledged (master), not yet removed (standby).',
    status => status.logBytes,
  ),
  groupGauge(
    'understudy_log_max_bytes',
    'Most bytes the log may hold; 0 without a maximum.',
    status => status.logMaxBytes,
  ),
  groupGauge(
    'understudy_lease_seconds',
    'Length of the lease as configured on the master, while one is needed; 0 without one.',
    status => (status.lease?.inForce === true ? status.lease.seconds : 0),
  ),
  groupGauge(
    'understudy_lease_seconds_left',
    'How long the master answers clients if the standby is not heard any more; on a standby, how long a promotion would wait. 0 without a lease.',
    status => status.lease?.secondsLeft ?? 0,
  ),
  {
    name: 'understudy_backlog',
    type: 'gauge',
    labels: [...groupLabels, 'in'],
    help: 'Where a master keeps what the standby lacks: 1 for memory, file (of the log) or dirty-map, 0 for the others.',
    samples: ({ groupStatus }) =>
      groupStatus.flatMap(({ group, role, backlog }) =>
        backlog === undefined
          ? []
          : backlogs.map(place => ({ labels: { group, role, in: place }, value: Number(place === backlog) })),
      ),
  },
  groupGauge(
    'understudy_resync_done_bytes',
    'Bytes compared or sent by the running resynchronisation; 0 when none runs.',
    status => status.resync?.doneBytes ?? 0,
  ),
  groupGauge(
    'understudy_resync_total_bytes',
    'Bytes the running resynchronisation has to go through; 0 when none runs.',
    status => status.resync?.totalBytes ?? 0,
  ),
  groupGauge(
    'understudy_resync_rate_bytes',
    'Bytes a second of the running resynchronisation; 0 when none runs.',
    status => status.resync?.rate ?? 0,
  ),
  groupGauge(
    'understudy_resync_eta_seconds',
    'Time left of the running resynchronisation; 0 when none runs or it is unknown.',
    status => status.resync?.etaSeconds ?? 0,
  ),
  volumeGauge(
    'understudy_last_verify_timestamp_seconds',
    'Unix time at which the last verify ended; 0 if there was none.',
    status => (status.lastVerify === null ? 0 : unixSeconds(status.lastVerify.time)),
  ),
  volumeGauge(
    'understudy_last_verify_chunks',
    'Chunks compared by the last verify.',
    status => status.lastVerify?.chunks ?? 0,
  ),
  volumeGauge(
    'understudy_last_verify_different_chunks',
    'Chunks that differed in the last verify.',
    status => status.lastVerify?.different ?? 0,
  ),
  volumeGauge(
    'understudy_last_verify_repaired_chunks',
    'Chunks that differed in the last verify and were repaired by it.',
    status => status.lastVerify?.repaired ?? 0,
  ),
  volumeGauge(
    'understudy_last_verify_unreadable_bytes',
    'Bytes that the last verify could not read on the master.',
    status => status.lastVerify?.unreadableBytes ?? 0,
  ),
  {
    name: 'understudy_peer_session',
    type: 'gauge',
    labels: [...groupLabels, 'peer', 'address', 'session'],
    help: 'The session with a peer: 1 for what it is, 0 for the others. The address of a master is shown without its port.',
    samples: ({ groupStatus }) =>
      groupStatus.flatMap(status => status.peers.flatMap(peer => peerSamples(status, peer))),
  },
  {
    name: 'understudy_errors_total',
    type: 'counter',
    labels: ['kind'],
    help: 'Errors of client connections, devices, replicas and sessions seen by this daemon.',
    samples: ({ errors }) => errorKinds.map(kind => ({ labels: { kind }, value: errors.read(kind) })),
  },
]

function volumeGauge(name: string, help: string, value: (status: VolumeStatus) => number): MetricDefinition {
  const samples: MetricDefinition['samples'] = ({ volumes }) =>
    volumes.map(status => ({ labels: ofVolume(status), value: value(status) }))
  return { name, type: 'gauge', labels: volumeLabels, help, samples }
}

function groupGauge(name: string, help: string, value: (status: VolumeStatus) => number): MetricDefinition {
  const samples: MetricDefinition['samples'] = ({ groupStatus }) =>
    groupStatus.map(status => ({ labels: { group: status.group, role: status.role }, value: value(status) }))
  return { name, type: 'gauge', labels: groupLabels, help, samples }
}

function ofVolume(status: VolumeStatus): Record<string, string> {
  return { volume: status.name, group: status.group, role: status.role }
}

function peerSamples(status: VolumeStatus, peer: PeerStatus) {
  // A master connects from a new port each time: with it, every session would make new series.
  const address = status.role === 'standby' ? peer.address.replace(/:\d+$/, '') : peer.address
  const labels = { group: status.group, role: status.role, peer: peer.id, address }
  return sessions.map(session => ({ labels: { ...labels, session }, value: Number(peer.session === session) }))
}

function unixSeconds(time: string): number {
  const milliseconds = Date.parse(time)
  return Number.isNaN(milliseconds) ? 0 : milliseconds / 1000
}

function savedByRule({ filter }: VolumeStatus): { rule: string; kind: FileRuleStatus['kind']; value: number }[] {
  const rules = filter?.rules ?? []
  const excluded = rules.filter(({ kind }) => kind === 'exclude')
  return [
    ...excluded.map(({ rule, kind, savedBytes }) => ({ rule, kind, value: savedBytes })),
    ...(excluded.length === rules.length
      ? []
      : [{ rule: '', kind: 'only' as const, value: filter?.savedNotChosenBytes ?? 0 }]),
  ]
}
