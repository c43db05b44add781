/** What a scrape reads of a daemon. */
import { version } from '../core/version.js'
import type { MetricsSource } from '../metrics/source.js'
import type { CounterReader } from '../native/counters.js'
import type { Daemon } from './daemon.js'

export function metricsSource(daemon: Daemon, counters: CounterReader): MetricsSource {
  return {
    version,
    counters,
    errors: daemon.errors,
    takeovers: daemon.options.takeovers,
    volumes: () => daemon.status().volumes,
    volumePages: () => [
      ...daemon.groups().flatMap(group =>
        group.exports().map(({ name, counterPage }) => ({
          volume: name,
          group: group.config.name,
          role: 'master' as const,
          page: counterPage,
        })),
      ),
      ...daemon.copies.list().map(({ volume, view }) => ({
        volume,
        group: daemon.standby?.status().find(status => status.name === volume)?.group ?? volume,
        role: 'standby' as const,
        page: view.exported.counterPage,
      })),
    ],
    groupPages: () => daemon.groups().map(group => ({ group: group.config.name, page: group.counterPage })),
    attachments: () => daemon.attachments.figures(),
    cache: () => daemon.residency?.figures() ?? { sizeBytes: 0, lockedBytes: 0, missingBytes: 0, evictions: 0 },
    recovery: () => daemon.recovery.figures(),
    replicaPages: () => daemon.standby?.replicaPages() ?? [],
  }
}
