/** What belongs to the process and its host: takeovers, devices of this host's kernel, and copies kept in memory. */
import type { MetricDefinition } from './definitions.js'
import { type CacheFigures, guardStates } from './source.js'
import { takeoverOutcomes } from './takeover-figures.js'

const attachmentLabels = ['volume', 'device'] as const

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
  {
    name: 'understudy_attachment_connected',
    type: 'gauge',
    labels: attachmentLabels,
    help: '1 while the device of this host is connected to its volume; 0 while whoever uses it waits.',
    samples: ({ attachments }) =>
      attachments.devices.map(({ volume, device, connected }) => ({
        labels: { volume, device },
        value: connected ? 1 : 0,
      })),
  },
  {
    name: 'understudy_attachment_reconnects_total',
    type: 'counter',
    labels: attachmentLabels,
    help: 'How often this daemon connected the device again while whoever uses it waited: after a start, or a connection that ended.',
    samples: ({ attachments }) =>
      attachments.devices.map(({ volume, device, reconnects }) => ({ labels: { volume, device }, value: reconnects })),
  },
  {
    name: 'understudy_memory_guard',
    type: 'gauge',
    labels: ['state'],
    help: 'Whether the data path is kept from waiting for memory, as it must be for a device of this host: 1 for what it is (off: nothing was attached; partial: the kernel refused a part), 0 for the others.',
    samples: ({ attachments }) =>
      guardStates.map(state => ({ labels: { state }, value: attachments.guard === state ? 1 : 0 })),
  },
  cacheMetric(
    'gauge',
    'understudy_cache_size_bytes',
    'Most bytes of copies that are kept in memory (--cache-size); 0: none are.',
    ({ sizeBytes }) => sizeBytes,
  ),
  cacheMetric(
    'gauge',
    'understudy_cache_locked_bytes',
    'Bytes of copies that are locked in memory.',
    ({ lockedBytes }) => lockedBytes,
  ),
  cacheMetric(
    'gauge',
    'understudy_cache_missing_bytes',
    'Bytes of copies that are to be kept in memory, and for which there is no room or no memory.',
    ({ missingBytes }) => missingBytes,
  ),
  cacheMetric(
    'counter',
    'understudy_cache_evictions_total',
    'Copies that have given way to others, or to what else runs on the host.',
    ({ evictions }) => evictions,
  ),
]

function cacheMetric(
  type: 'gauge' | 'counter',
  name: string,
  help: string,
  value: (figures: CacheFigures) => number,
): MetricDefinition {
  return { name, type, labels: [], help, samples: ({ cache }) => [{ labels: {}, value: value(cache) }] }
}
