/** What a replica tells in its page (ReplicaState in native/replay/replica.h). Watermarks are in group-metrics.ts. */
import type { ReplicaCounter } from './counter-names.js'
import type { MetricDefinition } from './definitions.js'
import { counter } from './source.js'

const labels = ['group', 'role'] as const
/** ReplicaPhase, by its number. */
const phases = ['fresh', 'initial', 'cut', 'staging', 'stepping'] as const

export const standbyMetrics: MetricDefinition[] = [
  {
    name: 'understudy_standby_phase',
    type: 'gauge',
    labels: [...labels, 'phase'],
    help: 'What the images are: fresh and initial are unusable, cut follows, staging and stepping are in a step. 1 for the current one.',
    samples: ({ standbys }) =>
      standbys.flatMap(({ group, role, counters }) =>
        phases.map((phase, number) => ({
          labels: { group, role, phase },
          value: Number(counter(counters, 'phase') === number),
        })),
      ),
  },
  standbyMetric('gauge', 'understudy_standby_segments', 'Files of the log.', 'segments'),
  standbyMetric('gauge', 'understudy_standby_segment_bytes', 'Bytes in the files of the log.', 'segment_bytes'),
  standbyMetric('gauge', 'understudy_standby_staged_bytes', 'Bytes collected for the open step.', 'staged_bytes'),
  standbyMetric(
    'gauge',
    'understudy_standby_staging_max_bytes',
    'Most bytes an open step may take of the log; 0 without a maximum.',
    'staging_bytes_max',
  ),
  standbyMetric(
    'gauge',
    'understudy_standby_staging_full',
    '1 while the open step has reached its maximum, and nothing more is acknowledged, else 0.',
    'staging_full',
  ),
  byLabel('understudy_standby_fsyncs_total', 'Calls of fdatasync, on segments and on images.', 'file', {
    segment: 'segment_syncs',
    image: 'image_syncs',
  }),
  standbyMetric(
    'counter',
    'understudy_standby_accepted_records_total',
    'Records that passed their checks since the daemon started.',
    'records_received',
  ),
  standbyMetric(
    'counter',
    'understudy_standby_replayed_records_total',
    'Records applied to an image since the daemon started.',
    'records_applied',
  ),
  byLabel('understudy_standby_verified_chunks_total', 'Chunks compared with a hash of the master.', 'result', {
    equal: 'verify_equal',
    different: 'verify_different',
  }),
  standbyMetric(
    'gauge',
    'understudy_standby_last_heard_timestamp_seconds',
    'Unix time of the last byte from the master; 0 before the first.',
    'last_heard_ns',
    1e9,
  ),
  standbyMetric('counter', 'understudy_standby_errors_total', 'Errors of segments and images.', 'errors'),
  standbyMetric(
    'gauge',
    'understudy_standby_errno',
    'The error for which nothing is acknowledged at present, as an errno; 0 if all is well.',
    'last_errno',
  ),
]

function standbyMetric(
  type: 'counter' | 'gauge',
  name: string,
  help: string,
  from: ReplicaCounter,
  divisor = 1,
): MetricDefinition {
  const samples: MetricDefinition['samples'] = ({ standbys }) =>
    standbys.map(({ group, role, counters }) => ({ labels: { group, role }, value: counter(counters, from) / divisor }))
  return { name, type, labels, help, samples }
}

/** One counter a value of an additional label. */
function byLabel(name: string, help: string, label: string, from: Record<string, ReplicaCounter>): MetricDefinition {
  const samples: MetricDefinition['samples'] = ({ standbys }) =>
    standbys.flatMap(({ group, role, counters }) =>
      Object.entries(from).map(([value, counterName]) => ({
        labels: { group, role, [label]: value },
        value: counter(counters, counterName),
      })),
    )
  return { name, type: 'counter', labels: [...labels, label], help, samples }
}
