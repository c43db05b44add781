/** What belongs to the process and to no volume: takeovers. */
import type { MetricDefinition } from './definitions.js'
import { takeoverOutcomes } from './takeover-figures.js'

export const daemonMetrics: MetricDefinition[] = [
  {
    name: 'understudy_takeover_stall_seconds',
    type: 'gauge',
    labels: [],
    help: 'How long clients waited in the last takeover of which this process was a part; 0 if there was none.',
    samples: ({ takeovers }) => [{ labels: {}, value: (takeovers.stallMs ?? 0) / 1000 }],
  },
  {
    name: 'understudy_takeovers_total',
    type: 'counter',
    labels: ['outcome'],
    help: 'Takeovers: taken-over, this process went on in place of another; given-up, another one was to go on in its place, and this one did.',
    samples: ({ takeovers }) =>
      takeoverOutcomes.map(outcome => ({ labels: { outcome }, value: takeovers.count(outcome) })),
  },
]
