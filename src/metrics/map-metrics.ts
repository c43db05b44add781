/** The dirty map on disk and the filter, as the engine counts them in each volume's page (native/engine/marks.h, capture.h). */
import type { MetricDefinition } from './definitions.js'
import { counter } from './source.js'

const labels = ['volume', 'group', 'role'] as const

const gauge = (name: string, help: string, word: string): MetricDefinition => ({
  name,
  type: 'gauge',
  labels,
  help,
  samples: ({ clients }) =>
    clients.map(({ volume, group, role, counters }) => ({
      labels: { volume, group, role },
      value: counter(counters, word),
    })),
})

export const mapMetrics: MetricDefinition[] = [
  gauge(
    'understudy_hot_bytes',
    'Bytes in extents that were written to lately: compared, beside what is dirty, after a crash of the master.',
    'hot_bytes',
  ),
  gauge(
    'understudy_map_stored',
    '1 while the dirty map is kept on disk. 0: a crash of the master means that everything is compared.',
    'map_stored',
  ),
  {
    ...gauge(
      'understudy_filter_saved_bytes_total',
      'Bytes of client writes that any filter kept from the standby, since the start.',
      'left_out_bytes',
    ),
    type: 'counter',
  },
]
