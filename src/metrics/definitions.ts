/**
 * Every metric in one table: name, type, labels, help, and how its samples come out of a snapshot. The registry, the
 * table in docs/metrics.md and the check of dashboards and alert rules are all made from it.
 */
import { daemonMetrics } from './daemon-metrics.js'
import { groupMetrics } from './group-metrics.js'
import { mapMetrics } from './map-metrics.js'
import { recoveryMetrics } from './recovery-metrics.js'
import { requestMetrics } from './request-metrics.js'
import type { Snapshot } from './source.js'
import { historyMetrics } from './history-metrics.js'
import { standbyMetrics } from './standby-metrics.js'
import { statusMetrics } from './status-metrics.js'

export interface Sample {
  labels: Record<string, string>
  value: number
  /** Of a histogram: the metric's name with _bucket, _sum or _count. */
  metricName?: string
}

export interface MetricDefinition {
  name: string
  type: 'counter' | 'gauge' | 'histogram'
  labels: readonly string[]
  help: string
  samples(snapshot: Snapshot): Sample[]
}

export const metricDefinitions = (): MetricDefinition[] => [
  ...statusMetrics,
  ...groupMetrics,
  ...requestMetrics,
  ...mapMetrics,
  ...standbyMetrics,
  ...recoveryMetrics,
  ...historyMetrics,
  ...daemonMetrics,
]
