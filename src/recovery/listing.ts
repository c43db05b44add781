/** The document of `understudy vm list --json`: each machine, how fresh its copy is, and how it was last tried. */
import type { HistoryMoment, Role, VolumeState, VolumeStatus } from '../core/status-types.js'
import type { Found } from './machines.js'

export interface MachineStatus {
  name: string
  group: string
  memoryBytes: number
  cpus: number
  firmware: string
  /** Its disks, in order. */
  volumes: string[]
  /** Whoever the copy is of. */
  primary: PrimaryStatus
  freshness: FreshnessStatus
  /** Of its disks together; null: not known. */
  residency: ResidencyStatus | null
  /** The moment that its group was promoted as of; null: it was not, or of everything. */
  asOf: HistoryMoment | null
  /** Null: it does not run here. */
  run: RunStatus | null
  /** Null: there was none. */
  lastDrill: LastDrill | null
  /** Null: its drills are not repeated. */
  nextDrill: NextDrill | null
}

/** What of the images' data is in the kernel's memory. */
export interface ResidencyStatus {
  dataBytes: number
  residentBytes: number
  /** Of these, kept there whatever else needs memory. */
  pinnedBytes: number
}

export interface RunStatus {
  kind: string
  /** ISO 8601 */
  since: string
}

export interface LastDrill {
  /** ISO 8601 */
  startedAt: string
  passed: boolean
  /** What was seen, or why it failed. */
  reason: string
  seconds: number
}

export interface NextDrill {
  /** ISO 8601. In the past: it begins when those before it are over. Null: none begins while this host is the master. */
  dueAt: string | null
  everySeconds: number
  /** The moment that it is of, as typed; '': the newest. */
  at: string
}

/** What others know of a machine. */
export type MachineFacts = Pick<MachineStatus, 'run' | 'lastDrill' | 'nextDrill'>

export interface PrimaryStatus {
  id: string
  /** HOST:PORT; null without a session. */
  address: string | null
  /** ISO 8601: it was heard then or later; null: not since the start, or this host is the master. */
  heardAt: string | null
}

/** Of the disks together: what is worst. */
export interface FreshnessStatus {
  /** master: it was promoted, and this host has what there is. */
  role: Role
  state: VolumeState
  reason: string
  usable: boolean
  lagBytes: number
  lagSeconds: number
}

export interface MachinesDocument {
  machines: MachineStatus[]
}

/** `volumes`: of the whole daemon. */
export function machineStatus(
  { machine, copy }: Found,
  volumes: readonly VolumeStatus[],
  facts: Partial<MachineFacts>,
): MachineStatus {
  const { name, group, memoryBytes, cpus, firmware } = machine
  const disks = volumes.filter(volume => volume.group === group)
  const peers = disks.flatMap(disk => disk.peers).filter(({ id }) => id === copy.masterId)
  const address = peers.find(peer => peer.address !== '')?.address ?? null
  const heardAt = peers.find(peer => typeof peer.heardAt === 'string')?.heardAt ?? null
  return {
    ...{ name, group, memoryBytes, cpus, firmware },
    volumes: copy.volumes.map(volume => volume.name),
    primary: { id: copy.masterId, address, heardAt },
    freshness: freshness(disks),
    residency: residency(disks),
    asOf: disks.find(({ asOf }) => asOf !== undefined)?.asOf ?? null,
    run: facts.run ?? null,
    lastDrill: facts.lastDrill ?? null,
    nextDrill: facts.nextDrill ?? null,
  }
}

function residency(disks: readonly VolumeStatus[]): ResidencyStatus | null {
  const known = disks.flatMap(disk => disk.residency ?? [])
  if (known.length === 0) return null
  const sum = (of: (disk: (typeof known)[number]) => number): number =>
    known.reduce((bytes, disk) => bytes + of(disk), 0)
  return {
    dataBytes: sum(({ dataBytes }) => dataBytes),
    residentBytes: sum(({ residentBytes }) => residentBytes),
    pinnedBytes: sum(({ lockedBytes }) => lockedBytes),
  }
}

function freshness(disks: readonly VolumeStatus[]): FreshnessStatus {
  const worst = disks.find(({ usable }) => !usable) ?? disks.find(({ state }) => state !== 'replicating') ?? disks[0]
  return {
    role: worst?.role ?? 'standby',
    state: worst?.state ?? 'detached',
    reason: worst?.reason ?? '',
    usable: disks.length > 0 && disks.every(({ usable }) => usable),
    lagBytes: disks.reduce((sum, { lagBytes }) => sum + lagBytes, 0),
    lagSeconds: Math.max(0, ...disks.map(({ lagSeconds }) => lagSeconds)),
  }
}
