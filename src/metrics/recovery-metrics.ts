/** Machines that can be put on stage on this host: whether they run, and how their drills end. */
import type { DrillFigures } from '../recovery/drills.js'
import type { MetricDefinition } from './definitions.js'

const labels = ['machine', 'group'] as const

export const recoveryMetrics: MetricDefinition[] = [
  {
    name: 'understudy_machine_running',
    type: 'gauge',
    labels,
    help: '1 while the machine runs on this host (not in a drill), else 0.',
    samples: ({ recovery }) =>
      recovery.machines.map(({ machine, group, running }) => ({ labels: { machine, group }, value: Number(running) })),
  },
  {
    name: 'understudy_drills_total',
    type: 'counter',
    labels: [...labels, 'result'],
    help: 'Drills of the machine that have ended since the daemon started.',
    samples: ({ recovery }) =>
      recovery.drills.flatMap(({ machine, group, passed, failed }) =>
        Object.entries({ passed, failed }).map(([result, value]) => ({ labels: { machine, group, result }, value })),
      ),
  },
  drillMetric('understudy_drills_running', 'Drills of the machine that are running.', ({ running }) => running),
  drillMetric(
    'understudy_drill_last_timestamp_seconds',
    'Unix time at which the last drill began; 0 when there was none.',
    ({ last }) => (last === undefined ? 0 : Date.parse(last.startedAt) / 1000),
  ),
  drillMetric(
    'understudy_drill_last_passed',
    '1 when the last drill passed; 0 when it failed, or there was none.',
    ({ last }) => (last?.passed === true ? 1 : 0),
  ),
  drillMetric(
    'understudy_drill_last_seconds',
    'How long the last drill took, until what it waited for or until it failed.',
    ({ last }) => last?.seconds ?? 0,
  ),
]

function drillMetric(name: string, help: string, value: (figures: DrillFigures) => number): MetricDefinition {
  const samples: MetricDefinition['samples'] = ({ recovery }) =>
    recovery.drills.map(figures => ({
      labels: { machine: figures.machine, group: figures.group },
      value: value(figures),
    }))
  return { name, type: 'gauge', labels, help, samples }
}
