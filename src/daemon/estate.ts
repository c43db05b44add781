/**
 * What one daemon hands over to the next: everything that clients hold on to, as descriptors of this process. Devices,
 * copies and sessions with peers are no part of it: they are closed as at a clean stop, and opened again.
 *
 * Whoever has an Estate has its descriptors: they are open until somebody takes them over, or the process ends.
 */
import { closeSync } from 'node:fs'

import { sleep, systemClock } from '../core/clock.js'
import { OperationError } from '../core/errors.js'
import type { Handed } from '../core/handed.js'
import type { Addon, TakenClient } from '../native/binding.js'
import type { DoorSockets } from './doors.js'
import type { ListenerSocket, NbdFront } from './nbd-front.js'
import type { MasterRole } from './roles.js'

export interface EstateClient {
  /** Of the volume. */
  name: string
  client: TakenClient
  /** It is this host's kernel, for its device /dev/nbdN. */
  attached?: number
}

export interface Estate {
  /** Of the state directory. */
  lock: number
  /** Control socket and metrics; absent: they were never open. */
  doors: DoorSockets | undefined
  listeners: ListenerSocket[]
  clients: EstateClient[]
  /** Where masters connect. */
  standbyPort: number | undefined
  /** By group: until when it holds a lease. A clock that all processes of this boot have. */
  leases: Map<string, bigint>
  /** Groups whose dirty maps are handed over; the others are opened as after a crash. */
  handed: HandedEntry[]
}

export type HandedEntry = Handed & { group: string }

/** While clients wait: for the standby to have what was written last. What it has not is marked dirty, and sent again. */
export const handOverDrainMs = 50

/** Rejects with all of them where they were. */
export async function takeClients(addon: Addon, groups: MasterRole[]): Promise<Estate['clients']> {
  const taken: (Estate['clients'][number] & { volume: number })[] = []
  try {
    for (const { name, volume } of groups.flatMap(group => group.exports()))
      for (const client of await addon.takeClients(volume)) taken.push({ name, client, volume })
    return taken.map(({ name, client }) => ({ name, client }))
  } catch (error) {
    for (const { client, volume } of taken) addon.adoptClient(volume, client)
    throw error
  }
}

export function adoptClients(
  front: NbdFront,
  groups: MasterRole[],
  clients: Estate['clients'],
  isAttached: (index: number, connection: number) => void,
): void {
  const exports = groups.flatMap(group => group.exports())
  for (const { name, client, attached } of clients) {
    const volume = exports.find(exported => exported.name === name)
    if (volume !== undefined) {
      const connection = front.adopt(client, volume.volume)
      if (attached !== undefined) isAttached(attached, connection)
    } else for (const fd of [client.fd, client.bytesFd]) if (fd >= 0) closeSync(fd)
  }
}

/** Less than hand-over.ts gives a successor, so that it can still say why it failed. */
const releasedMs = 3_000
const againMs = 20
const inUse = ['EBUSY', 'EADDRINUSE', 'STORE_IN_USE']

/** Opens what another process may hold for a moment longer: the kernel closes its files after it has ended. */
export async function untilReleased<T>(open: () => Promise<T>, isNeeded = (): boolean => true): Promise<T> {
  for (const began = systemClock.monotonicMs(); ; await sleep(systemClock, againMs)) {
    try {
      return await open()
    } catch (error) {
      if (!isInUse(error) || !isNeeded() || systemClock.monotonicMs() - began > releasedMs) throw error
    }
  }
}

function isInUse(error: unknown): boolean {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: unknown }
  return inUse.includes(String(code)) || (cause !== undefined && isInUse(cause))
}

/** For a channel that carries descriptors beside the text: in the document they are numbers of their places. */
export function encodeEstate(estate: Estate): { document: object; fds: number[] } {
  const fds: number[] = []
  const place = (fd: number): number => (fd < 0 ? -1 : fds.push(fd) - 1)
  const { lock, doors, listeners, clients, standbyPort, leases, handed } = estate
  const document = {
    lock: place(lock),
    ...(doors === undefined
      ? {}
      : { control: place(doors.control), metrics: doors.metrics === undefined ? -1 : place(doors.metrics) }),
    listeners: listeners.map(({ address, fd }) => ({ address, fd: place(fd) })),
    clients: clients.map(({ client, ...rest }) => ({
      ...rest,
      client: { ...client, fd: place(client.fd), bytesFd: place(client.bytesFd) },
    })),
    standbyPort,
    leases: [...leases].map(([group, untilNs]) => [group, String(untilNs)]),
    handed: handed.map(entry => ({ ...entry, maps: entry.maps.map(place) })),
  }
  return { document, fds }
}

interface EstateDocument {
  lock: number
  control?: number
  metrics?: number
  listeners: ListenerSocket[]
  clients: Estate['clients']
  standbyPort?: number
  /** Absent: from a version that knew none. */
  leases?: [string, string][]
  handed: HandedEntry[]
}

/** Of a daemon of the same user, which was asked for it. */
export function decodeEstate(document: object, fds: number[]): Estate {
  const at = (place: number): number => {
    const fd = place < 0 ? -1 : fds[place]
    if (fd === undefined) throw new OperationError('TAKEOVER', `takeover: descriptor ${place} did not come`)
    return fd
  }
  const {
    lock,
    control,
    metrics = -1,
    listeners,
    clients,
    standbyPort,
    leases = [],
    handed,
  } = document as EstateDocument
  return {
    lock: at(lock),
    doors:
      control === undefined ? undefined : { control: at(control), ...(metrics < 0 ? {} : { metrics: at(metrics) }) },
    listeners: listeners.map(({ address, fd }) => ({ address, fd: at(fd) })),
    clients: clients.map(({ client, ...rest }) => ({
      ...rest,
      client: { ...client, fd: at(client.fd), bytesFd: at(client.bytesFd) },
    })),
    standbyPort,
    leases: new Map(leases.map(([group, untilNs]) => [group, BigInt(untilNs)])),
    handed: handed.map(entry => ({ ...entry, maps: entry.maps.map(at) })),
  }
}

/** What nobody has taken over of an estate. */
export function closeEstate({ lock, doors, listeners, clients, handed }: Partial<Estate>): void {
  const fds = [
    lock ?? -1,
    ...[doors?.control ?? -1, doors?.metrics ?? -1],
    ...(listeners ?? []).map(({ fd }) => fd),
    ...(clients ?? []).flatMap(({ client }) => [client.fd, client.bytesFd]),
    ...(handed ?? []).flatMap(({ maps }) => maps),
  ]
  for (const fd of fds) if (fd >= 0) closeSync(fd)
}
