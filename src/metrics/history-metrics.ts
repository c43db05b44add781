/** What a standby with --history keeps, as `status` shows it. Without one, the samples are zeroes. */
import type { HistoryStatus } from '../core/status-types.js'
import type { MetricDefinition } from './definitions.js'

const labels = ['group', 'role'] as const

export const historyMetrics: MetricDefinition[] = [
  historyGauge(
    'understudy_history_bytes',
    'Bytes on disk of records and blocks that are kept for earlier moments.',
    ({ bytes }) => bytes,
  ),
  historyGauge(
    'understudy_history_saved_bytes',
    'Of these, blocks as they were before they were written over.',
    ({ savedBytes }) => savedBytes,
  ),
  historyGauge('understudy_history_segments', 'Files of records that are kept.', ({ segments }) => segments),
  historyGauge(
    'understudy_history_compressed_bytes',
    'Of understudy_history_bytes, what segments take that are compressed: those that were idle, where it pays.',
    ({ compressedBytes }) => compressedBytes,
  ),
  historyGauge(
    'understudy_history_uncompressed_bytes',
    'What these segments hold; the ratio of the two is what compression gives.',
    ({ uncompressedBytes }) => uncompressedBytes,
  ),
  historyGauge(
    'understudy_history_epochs',
    'Stretches between two checkpoints; the oldest goes as a whole.',
    ({ epochs }) => epochs,
  ),
  historyGauge(
    'understudy_history_oldest_timestamp_seconds',
    "Unix time of the oldest moment that can be put on stage, by the master's clock; 0 without one.",
    ({ oldest }) => unixSeconds(oldest),
  ),
  historyGauge('understudy_history_newest_timestamp_seconds', 'The same of the newest.', ({ newest }) =>
    unixSeconds(newest),
  ),
  historyGauge(
    'understudy_history_points',
    'Points of the history that are labelled: marks and clean stops.',
    ({ pointCount }) => pointCount,
  ),
]

function historyGauge(name: string, help: string, value: (history: HistoryStatus) => number): MetricDefinition {
  return {
    name,
    type: 'gauge',
    labels,
    help,
    samples: ({ groupStatus }) =>
      groupStatus
        .filter(({ role }) => role === 'standby')
        .map(({ group, role, history }) => ({
          labels: { group, role },
          value: history === undefined ? 0 : value(history),
        })),
  }
}

const unixSeconds = (moment: HistoryStatus['oldest']): number => (moment === null ? 0 : Date.parse(moment.time) / 1000)
