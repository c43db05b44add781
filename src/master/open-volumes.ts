/** The volumes of a group while it is open: what was prepared, and the engine's handles. */
import { OperationError } from '../core/errors.js'
import type { LastVerify, UnreadableRange } from '../core/status-types.js'
import type { DeviceInfo, OpenedGroup } from '../native/binding.js'
import type { PreparedGroup, PreparedVolume } from './group-preparation.js'

export interface OpenVolume extends PreparedVolume {
  /** The engine's, for adopt(), verify() and the like. */
  handle: number
  device: DeviceInfo
  counterPage: number
  lastVerify: LastVerify | null
  /** The first of what could not be read, since the last verify. */
  unreadable: UnreadableRange[]
  verifying: boolean
}

/** What NBD clients get to see. */
export interface ExportedVolume {
  name: string
  volume: number
  device: DeviceInfo
  readOnly: boolean
  replicated: boolean
  counterPage: number
}

export function openVolumes(prepared: PreparedGroup, opened: OpenedGroup): OpenVolume[] {
  return prepared.volumes.map((volume, index) => {
    const native = opened.volumes[index]
    if (native === undefined)
      throw new OperationError('NATIVE', `open group: the engine opened ${opened.volumes.length} volumes only`)
    const { device, counterPage } = native
    return { ...volume, handle: native.volume, device, counterPage, lastVerify: null, unreadable: [], verifying: false }
  })
}

export function exportOf({ config, handle, device, counterPage }: OpenVolume, replicated: boolean): ExportedVolume {
  return { name: config.name, volume: handle, device, readOnly: config.readOnly, replicated, counterPage }
}

const unreadableMax = 100

/** What a resynchronisation could not read: listed once, until the next verify looks again. */
export function noteUnreadable(volume: OpenVolume, range: { offset: bigint; length: bigint }): void {
  const [offset, length] = [Number(range.offset), Number(range.length)]
  if (volume.unreadable.length < unreadableMax && !volume.unreadable.some(known => known.offset === offset))
    volume.unreadable.push({ offset, length })
}
