/** A MetricsSource over pages that a test fills in, for one volume in each role. */
import { countersRead } from '../../../src/metrics/counter-names.js'
import { ErrorCounts } from '../../../src/metrics/error-counts.js'
import { TakeoverFigures } from '../../../src/metrics/takeover-figures.js'
import type { MetricsSource } from '../../../src/metrics/source.js'
import type { PageKind } from '../../../src/native/counters.js'
import type { FilterStatus, VolumeStatus } from '../../../src/core/status-types.js'

export const masterStatus: VolumeStatus = {
  name: 'disk',
  group: 'pair',
  role: 'master',
  state: 'initial-sync',
  reason: '',
  since: '2026-01-31T12:00:00.000Z',
  usable: false,
  protected: false,
  durability: 'flush',
  generation: '0011223344556677',
  written: '0',
  sent: '0',
  received: '0',
  durable: '0',
  committed: '0',
  applied: '0',
  lagBytes: 0,
  lagSeconds: 0,
  dirtyBytes: 0,
  sizeBytes: 0,
  logBytes: 0,
  logMaxBytes: 0,
  backlog: 'memory',
  logFileBytes: 0,
  logFileMaxBytes: 0,
  resync: null,
  lastVerify: null,
  peers: [{ id: 'a'.repeat(64), address: 'standby.example:9450', session: 'connecting', rttSeconds: null }],
}

const filter: FilterStatus = {
  ...{ keys: [], leftOutByRanges: 0, leftOutBytes: 0, rangeCount: 0, replicatedWhole: [] },
  ...{ savedBytes: 0, savedNotChosenBytes: 0 },
  rules: [{ rule: '/swap', kind: 'exclude', files: 0, bytes: 0, savedBytes: 0 }],
}

const { backlog: _backlog, logFileBytes: _bytes, logFileMaxBytes: _max, ...masterOnly } = masterStatus

export const standbyStatus: VolumeStatus = {
  ...masterOnly,
  role: 'standby',
  peers: [{ id: 'b'.repeat(64), address: '192.0.2.1:54321', session: 'connected', rttSeconds: 0.002 }],
}

/** Pages 0: the master's group; 1: its volume; 2: the replica. Counters are 0 until a test sets them. */
export class FakeSource implements MetricsSource {
  readonly version = '1.2.3'
  readonly errors = new ErrorCounts()
  readonly takeovers = new TakeoverFigures()
  statuses: VolumeStatus[] = [{ ...masterStatus, filter }, { ...standbyStatus }]
  exports: ReturnType<MetricsSource['volumePages']> = [{ volume: 'disk', group: 'pair', role: 'master', page: 1 }]
  readonly pages: Record<PageKind, Map<number, Record<string, bigint>>> = {
    group: new Map(),
    volume: new Map(),
    replica: new Map(),
  }
  attached: ReturnType<MetricsSource['attachments']> = {
    devices: [{ volume: 'disk', device: '/dev/nbd0', connected: false, reconnects: 0 }],
    guard: 'off',
  }
  cached: ReturnType<MetricsSource['cache']> = { sizeBytes: 0, lockedBytes: 0, missingBytes: 0, evictions: 0 }
  reads = 0

  readonly counters = {
    read: (kind: PageKind, page: number): Record<string, bigint> => {
      this.reads++
      return { ...this.page(kind, page) }
    },
  }

  cache = (): ReturnType<MetricsSource['cache']> => this.cached
  attachments = (): ReturnType<MetricsSource['attachments']> => this.attached
  recovery = (): ReturnType<MetricsSource['recovery']> => ({
    drills: [{ machine: 'web', group: 'pair', running: 0, passed: 0, failed: 0, last: undefined }],
    machines: [{ machine: 'web', group: 'pair', running: false }],
  })
  volumes = (): VolumeStatus[] => this.statuses
  volumePages = (): ReturnType<MetricsSource['volumePages']> => this.exports
  groupPages = (): ReturnType<MetricsSource['groupPages']> => [{ group: 'pair', page: 0 }]
  replicaPages = (): ReturnType<MetricsSource['replicaPages']> => [{ group: 'pair', page: 2 }]

  /** The page's counters, to be changed in place. */
  page(kind: PageKind, page: number): Record<string, bigint> {
    let counters = this.pages[kind].get(page)
    if (counters === undefined) {
      counters = Object.fromEntries(countersRead()[kind].map(name => [name, 0n]))
      this.pages[kind].set(page, counters)
    }
    return counters
  }
}
