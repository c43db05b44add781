/**
 * The prom-client registry of a daemon. Values are absolute and come from the snapshot of the scrape; prom-client only
 * keeps names and writes the text. Nothing is called per request, and every series of a configured volume is there at
 * the first scrape.
 */
import { Registry, type Metric } from 'prom-client'
import { metricDefinitions, type MetricDefinition, type Sample } from './definitions.js'
import { takeSnapshot, type MetricsSource, type Snapshot } from './source.js'

export interface MetricsRegistry {
  readonly contentType: string
  /** The text of one scrape. Rejects with the source's error. */
  scrape(): Promise<string>
}

export function createMetricsRegistry(source: MetricsSource): MetricsRegistry {
  const registry = new Registry()
  const current: CurrentSnapshot = { snapshot: undefined }
  for (const definition of metricDefinitions()) {
    // Sound: the registry's text needs nothing of a metric but its name and get() (prom-client 15, lib/registry.js).
    registry.registerMetric(new SnapshotMetric(definition, current) as unknown as Metric)
  }
  return {
    contentType: registry.contentType,
    scrape() {
      try {
        current.snapshot = takeSnapshot(source)
        // metrics() calls every get() before it returns its promise: a second scrape cannot change the snapshot in between.
        return registry.metrics()
      } catch (error) {
        return Promise.reject(error instanceof Error ? error : new Error(String(error)))
      } finally {
        current.snapshot = undefined
      }
    },
  }
}

interface CurrentSnapshot {
  snapshot: Snapshot | undefined
}

interface MetricValues {
  name: string
  help: string
  type: MetricDefinition['type']
  aggregator: 'sum'
  values: Sample[]
}

class SnapshotMetric {
  readonly name: string
  readonly #definition: MetricDefinition
  readonly #current: CurrentSnapshot

  constructor(definition: MetricDefinition, current: CurrentSnapshot) {
    this.name = definition.name
    this.#definition = definition
    this.#current = current
  }

  get(): Promise<MetricValues> {
    const { name, help, type } = this.#definition
    const values = this.#current.snapshot === undefined ? [] : this.#definition.samples(this.#current.snapshot)
    return Promise.resolve({ name, help, type, aggregator: 'sum', values })
  }
}
