/**
 * Whether a master may replicate here what its hello names. A refusal is one line that both sides show: what does not
 * fit and what to do. Nothing is written before the judgement (G5: no copy is ever overwritten unasked).
 */
import type { DeviceFacts } from '../core/device-facts.js'
import { describe } from '../core/errors.js'
import { contains, describeReigns, forkFrom, relationOf } from '../core/reigns.js'
import { formatSize } from '../core/units.js'
import type { Hello, HelloVolume, RefusalCode } from '../transport/messages.js'
import type { Origin, ReplicaRecord, ReplicaVolume } from './replica-file.js'
import { nameProblem } from './store.js'

/** What the judgement needs to know of the store. */
export interface StoreView {
  path: string
  record(group: string): ReplicaRecord | undefined
  /** The group that has a volume of this name. */
  ownerOf(volume: string): ReplicaRecord | undefined
  hasImage(volume: string): boolean
  /** --device VOLUME=PATH */
  devices: ReadonlyMap<string, string>
  /** Throws when there is no such device. */
  deviceFacts(path: string): DeviceFacts
}

export interface Refusal {
  code: RefusalCode
  message: string
}

/** Undefined: welcome. */
export function judgeHello(hello: Hello, masterId: string, store: StoreView): Refusal | undefined {
  const names = [hello.group, ...hello.volumes.map(volume => volume.name)]
  for (const name of names) {
    const problem = nameProblem(name)
    if (problem !== undefined) return { code: 'bad-hello', message: `${problem}; choose another name on the master` }
  }
  if (new Set(hello.volumes.map(volume => volume.name)).size < hello.volumes.length) {
    return { code: 'bad-hello', message: `group ${hello.group} names a volume twice` }
  }
  const record = store.record(hello.group)
  return record === undefined ? judgeNew(hello, store) : judgeKnown(hello, masterId, record, store)
}

function judgeNew(hello: Hello, store: StoreView): Refusal | undefined {
  for (const volume of hello.volumes) {
    const owner = store.ownerOf(volume.name)
    if (owner !== undefined) {
      return {
        code: 'other-volume',
        message: `volume ${volume.name}: the standby has one of this name in group ${owner.group} already; name it otherwise`,
      }
    }
    const refusal = judgePlace(volume, store)
    if (refusal !== undefined) return refusal
  }
  return undefined
}

function judgePlace(volume: HelloVolume, store: StoreView): Refusal | undefined {
  const device = store.devices.get(volume.name)
  if (device === undefined) {
    if (!store.hasImage(volume.name)) return undefined
    const image = `${store.path}/${volume.name}/image.raw`
    return {
      code: 'other-volume',
      message: `volume ${volume.name}: ${image} is there already and belongs to no group; move it away on the standby`,
    }
  }
  return judgeDevice(volume, device, store)
}

function judgeDevice(volume: HelloVolume, device: string, store: StoreView): Refusal | undefined {
  let facts: DeviceFacts
  try {
    facts = store.deviceFacts(device)
  } catch (error) {
    return { code: 'failed', message: describe(error) }
  }
  if (facts.sizeBytes !== volume.sizeBytes) {
    const sizes = `the standby's device ${device} has ${facts.sizeBytes} bytes (${formatSize(facts.sizeBytes)}), the master's ${volume.sizeBytes} (${formatSize(volume.sizeBytes)})`
    return { code: 'size', message: `volume ${volume.name}: ${sizes}; they must be equal` }
  }
  if (facts.sectorBytes > volume.blockMin && facts.sectorBytes > 512) {
    return {
      code: 'sector',
      message: `volume ${volume.name}: the standby's device ${device} has sectors of ${facts.sectorBytes} bytes, the master's of ${volume.blockMin}; choose one with smaller sectors`,
    }
  }
  return undefined
}

/** What somebody may still want goes only when the operator says so (G5). */
export function writtenText({ group, volumes }: ReplicaRecord): string {
  const volume = volumes[0]?.name ?? group
  return `group ${group}: its images on the standby were written to while no daemon had them; 'understudy invalidate ${volume}' there gives that up, 'understudy promote ${volume}' keeps it`
}

function judgeKnown(hello: Hello, masterId: string, record: ReplicaRecord, store: StoreView): Refusal | undefined {
  const group = `group ${hello.group}`
  if (record.masterId !== masterId) {
    const whose = `the standby's copy belongs to another master (${record.masterId}), not to ${masterId}`
    return { code: 'other-master', message: `${group}: ${whose}; use another store, or ${howToRemove(record, store)}` }
  }
  if (record.pausedSince !== undefined)
    return { code: 'paused', message: `${group} is paused on the standby since ${record.pausedSince}` }
  const refusal = judgeReigns(hello, record)
  if (refusal !== undefined) return refusal
  if (record.writtenSince !== undefined) return { code: 'failed', message: writtenText(record) }
  const missing = record.volumes.find(volume => !hello.volumes.some(({ name }) => name === volume.name))
  const added = hello.volumes.find(volume => !record.volumes.some(({ name }) => name === volume.name))
  if (missing !== undefined || added !== undefined) {
    const what =
      missing === undefined
        ? `the master adds volume ${added?.name ?? ''}`
        : `the master has no volume ${missing.name} any more`
    return {
      code: 'other-volume',
      message: `${group}: ${what}; a group's volumes are fixed: use another group, or ${howToRemove(record, store)}`,
    }
  }
  for (const [index, volume] of record.volumes.entries()) {
    const refusal = judgeVolume(volume, hello.volumes[index], record, store)
    if (refusal !== undefined) return refusal
  }
  return undefined
}

/** Whoever's history is a part of the other's follows; a copy that was written to past the fork does not unasked (G5). */
function judgeReigns(hello: Hello, record: ReplicaRecord): Refusal | undefined {
  const relation = relationOf(record.history, hello.history)
  const group = `group ${hello.group}`
  if (record.promotion !== undefined) {
    const { time } = record.promotion
    if (relation === 'descendant' || relation === 'same')
      return {
        code: 'promoted',
        message: `${group} was promoted on the standby at ${time}: that side is the master now, and this one must not be written to any more`,
      }
    return { code: 'diverged', message: `${group}: both sides were promoted; ${bothHistories(hello, record)}` }
  }
  if (record.origin !== undefined) return judgeOrigin(hello, record, record.origin)
  if (relation === 'same' || relation === 'ancestor') return undefined
  return { code: 'diverged', message: `${group}: the standby has a newer history; ${bothHistories(hello, record)}` }
}

function judgeOrigin(hello: Hello, record: ReplicaRecord, origin: Origin): Refusal | undefined {
  if (origin.accepted || contains(hello.history, origin.reign, origin.position)) return undefined
  const what =
    forkFrom(hello.history, origin.reign) === undefined
      ? `neither history goes on with the other; ${bothHistories(hello, record)}`
      : 'the standby wrote more, when it was the master, than the other side had when it was promoted'
  return { code: 'diverged', message: `group ${hello.group}: ${what}` }
}

function bothHistories(hello: Hello, record: ReplicaRecord): string {
  return `the standby: ${describeReigns(record.history)}; the master: ${describeReigns(hello.history)}`
}

function judgeVolume(
  volume: ReplicaVolume,
  offered: HelloVolume | undefined,
  record: ReplicaRecord,
  store: StoreView,
): Refusal | undefined {
  if (offered?.name !== volume.name) {
    return {
      code: 'other-volume',
      message: `group ${record.group}: the order of its volumes has changed; put volume ${volume.name} back in its place`,
    }
  }
  if (offered.uuid !== volume.uuid) {
    const whose = `the standby's copy belongs to another volume of this name (${volume.uuid}, the master's is ${offered.uuid})`
    return {
      code: 'other-volume',
      message: `volume ${volume.name}: ${whose}; use another store, or ${howToRemove(record, store)}`,
    }
  }
  if (offered.sizeBytes !== volume.sizeBytes) {
    const sizes = `the standby's copy has ${volume.sizeBytes} bytes (${formatSize(volume.sizeBytes)}), the master's device ${offered.sizeBytes} (${formatSize(offered.sizeBytes)})`
    return {
      code: 'size',
      message: `volume ${volume.name}: ${sizes}; use another store, or ${howToRemove(record, store)}`,
    }
  }
  return undefined
}

export function howToRemove(record: ReplicaRecord, store: Pick<StoreView, 'path'>): string {
  const images = record.volumes
    .filter(volume => volume.device === undefined)
    .map(volume => `${store.path}/${volume.name}`)
  return `stop the standby and remove ${[...images, `${store.path}/.groups/${record.group}`].join(' and ')} to begin anew`
}
