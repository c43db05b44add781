/** An addon without threads, and roles that only take notes, for tests of what the daemon decides. */
import { filterKeys, setFilter } from '../../../src/filter/filter-change.js'
import { FilterError } from '../../../src/filter/policy.js'
import type { GroupConfig, StandbyConfig } from '../../../src/core/config-types.js'
import { NativeError } from '../../../src/core/errors.js'
import type { CloseOutcome, MasterRole, StandbyRole } from '../../../src/daemon/roles.js'
import type { Addon, AddonEvent, DeviceInfo, ListenAddress } from '../../../src/native/binding.js'
import { masterStatus } from '../metrics/fake-source.js'

const device: DeviceInfo = {
  sizeBytes: 1n << 20n,
  blockMin: 1,
  blockPreferred: 4096,
  blockMax: 32 << 20,
  readOnly: false,
  canZero: true,
  isBlockDevice: false,
}

export class FakeAddon {
  readonly notes: string[] = []
  /** Addresses that are taken. */
  readonly taken = new Set<string>()
  emit: (event: AddonEvent) => void = () => undefined
  private listeners = 0

  /** Only what the daemon itself calls. */
  asAddon(): Addon {
    const part: Partial<Addon> = {
      start: onEvent => {
        this.emit = onEvent
        this.notes.push('start')
      },
      createIdentity: () => 'KEY',
      identityFingerprint: () => 'f'.repeat(64),
      counters: () => new ArrayBuffer(512 * 8),
      counterLayout: () => ({ volume: {}, group: {}, replica: {} }),
      listen: address => this.listen(address),
      closeListener: listener => void this.notes.push(`close listener ${listener}`),
      release: connection => void this.notes.push(`release ${connection}`),
    }
    return part as Addon
  }

  private listen(address: ListenAddress): { listener: number; port: number } {
    const text = address.kind === 'unix' ? address.path : `${address.host}:${address.port}`
    if (this.taken.has(text)) throw Object.assign(new Error('bind'), { code: 'EADDRINUSE' })
    this.notes.push(`listen ${text}${address.kind === 'unix' ? ` ${address.mode?.toString(8)}` : ''}`)
    return { listener: ++this.listeners, port: address.kind === 'unix' ? 0 : address.port || 40_000 + this.listeners }
  }
}

export function fakeMaster(config: GroupConfig, notes: string[], outcome: () => Promise<CloseOutcome>): MasterRole {
  notes.push(`open group ${config.name}`)
  return {
    config,
    counterPage: 0,
    exports: () => config.volumes.map(({ name, readOnly }) => ({ name, volume: 1, device, readOnly, counterPage: 0 })),
    status: () => config.volumes.map(({ name }) => ({ ...masterStatus, name, group: config.name })),
    verify: () =>
      Promise.resolve({
        ...{ chunks: 4, different: 0, repaired: 0, unreadableBytes: 0, differences: [], unreadable: [] },
        ...{ leftOut: [{ offset: 4096n, length: 8192n }], leftOutBytes: 8192n },
      }),
    explainFilter: () =>
      Promise.resolve({
        fileSystems: [],
        rules: [],
        sizeBytes: 0,
        leftOutByRanges: 0,
        leftOutNow: 0,
        leftOutByFiles: 0,
        rangeCount: 0,
      }),
    changeFilter: async (volume, filter) => {
      notes.push(`filter ${volume} ${filterKeys(filter).join(' ')}`)
      if (filter.partitions.includes(9)) throw new FilterError('NO_PARTITION', 'replicate partition=9: not there')
      for (const one of config.volumes) if (one.name === volume) setFilter(one, filter)
      return { inForce: true, keys: [], sizeBytes: 0, leftOutBytes: 0, enteringBytes: 0, leavingBytes: 0, warnings: [] }
    },
    history: [],
    volumeIdentities: [],
    outranked: undefined,
    isOwed: false,
    mark: async (volume, label) => {
      notes.push(`mark ${volume} ${label}`)
      return { incarnation: 1n, sequence: 2n, timeNs: 3n }
    },
    firstContact: () => Promise.resolve(),
    provenPosition: () => undefined,
    giveUpLease: () => [`give up the lease of ${config.name}`],
    leaseUntilNs: undefined,
    pause: () => void notes.push(`pause ${config.name}`),
    resume: () => void notes.push(`resume ${config.name}`),
    invalidate: () => void notes.push(`invalidate ${config.name}`),
    prevail: () => undefined,
    begin: () => undefined,
    putOnDisk: () => undefined,
    letWrite: () => undefined,
    close: async ({ drainMs }) => {
      notes.push(`close group ${config.name} in ${drainMs}`)
      return outcome()
    },
  }
}

export function fakeStandby(config: StandbyConfig, notes: string[]): StandbyRole {
  notes.push('open standby')
  const exported = { name: 'copy', volume: 2, device, readOnly: true, counterPage: 0 }
  return {
    config,
    port: 7401,
    status: () => [{ ...masterStatus, name: 'copy', group: 'copy', role: 'standby' }],
    copiedGroups: () => [],
    viewGroup: () => Promise.reject(new NativeError('export', new Error('not here'))),
    isPromoted: () => false,
    isBeingPromoted: () => false,
    standAside: () => undefined,
    settled: () => Promise.resolve(),
    checkMoment: () => Promise.resolve(),
    replicaPages: () => [],
    images: () => [],
    promoted: () => [],
    view: async (volume, { writable, at = '' }) => {
      notes.push(`view ${volume}${writable ? ' writable' : ''}${at === '' ? '' : ` at ${at}`}`)
      return {
        exported,
        position: { incarnation: '1', sequence: '2' },
        close: async () => void notes.push(`end view ${volume}`),
      }
    },
    makeFile: async (volume, { path, format }) => {
      notes.push(`file of ${volume}: ${path} (${format})`)
      return { incarnation: 1n, sequence: 2n, timeNs: 0n }
    },
    listHistory: () => Promise.reject(new NativeError('history', new Error('not here'))),
    mark: async (volume, label) => {
      notes.push(`mark copy ${volume} ${label}`)
      return { kind: 'mark', label, incarnation: 1n, sequence: 2n, timeNs: 3n }
    },
    promote: () => Promise.reject(new NativeError('promote', new Error('not here'))),
    masters: () => [],
    has: () => false,
    adopt: () => undefined,
    openAdopted: () => Promise.resolve(),
    demote: () => Promise.reject(new NativeError('demote', new Error('not here'))),
    resolve: () => Promise.reject(new NativeError('resolve', new Error('not here'))),
    pause: async volume => void notes.push(`pause copy ${volume}`),
    resume: volume => void notes.push(`resume copy ${volume}`),
    invalidate: async volume => void notes.push(`invalidate copy ${volume}`),
    saved: () => {
      throw new NativeError('export', new Error('not here'))
    },
    savedDirectory: '',
    setAllow: ids => void notes.push(`allow ${ids.length}`),
    setStaging: bytes => void notes.push(`staging ${bytes}`),
    close: async () => {
      notes.push('close standby')
      return { drained: true, dirtyBytes: 0 }
    },
  }
}
