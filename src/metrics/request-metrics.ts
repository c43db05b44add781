/** Clients' requests, as the engine counts them in each volume's page. */
import { requestKinds, type RequestKind } from './counter-names.js'
import type { MetricDefinition, Sample } from './definitions.js'
import { latencyHistogram } from './histogram.js'
import { counter, type VolumeSnapshot } from './source.js'

const volumeLabels = ['volume', 'group', 'role'] as const
const labels = [...volumeLabels, 'kind'] as const
const durationName = 'understudy_request_duration_seconds'

export const requestMetrics: MetricDefinition[] = [
  {
    name: 'understudy_connections',
    type: 'gauge',
    labels: volumeLabels,
    help: 'NBD connections that are in transmission.',
    samples: ({ clients }) =>
      clients.map(client => ({ labels: ofVolume(client), value: counter(client.counters, 'connections') })),
  },
  requestCounter('understudy_requests_total', 'NBD requests that were answered.', kind => `requests_${kind}`),
  requestCounter(
    'understudy_request_bytes_total',
    'Bytes covered by NBD requests that succeeded.',
    kind => `bytes_${kind}`,
  ),
  requestCounter(
    'understudy_request_errors_total',
    'NBD requests that were answered with an error.',
    kind => `errors_${kind}`,
  ),
  {
    name: durationName,
    type: 'histogram',
    labels,
    help: 'Time from a request being read to its reply being sent.',
    samples: ({ clients }) => clients.flatMap(client => requestKinds.flatMap(kind => durationSamples(client, kind))),
  },
]

function requestCounter(name: string, help: string, from: (kind: RequestKind) => string): MetricDefinition {
  const samples: MetricDefinition['samples'] = ({ clients }) =>
    clients.flatMap(client =>
      requestKinds.map(kind => ({
        labels: { ...ofVolume(client), kind },
        value: counter(client.counters, from(kind)),
      })),
    )
  return { name, type: 'counter', labels, help, samples }
}

function durationSamples(client: VolumeSnapshot, kind: RequestKind): Sample[] {
  const { buckets, sumSeconds, count } = latencyHistogram(client.counters, kind)
  const shared = { ...ofVolume(client), kind }
  return [
    ...buckets.map(bucket => ({
      metricName: `${durationName}_bucket`,
      labels: { ...shared, le: bucket.le },
      value: bucket.count,
    })),
    { metricName: `${durationName}_sum`, labels: shared, value: sumSeconds },
    { metricName: `${durationName}_count`, labels: shared, value: count },
  ]
}

function ofVolume({ volume, group, role }: VolumeSnapshot): Record<string, string> {
  return { volume, group, role }
}
