/**
 * STATE/volumes/NAME.json: what makes a volume itself, whatever its device is called: a uuid, and the size it was made
 * with. The standby's copy belongs to the uuid.
 */
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'

import { readJson } from '../core/atomic-file.js'
import { OperationError, UnderstudyError } from '../core/errors.js'
import { formatSize } from '../core/units.js'

export interface VolumeIdentity {
  name: string
  uuid: string
  device: string
  sizeBytes: bigint
}

export const volumePath = (state: string, name: string): string => join(state, 'volumes', `${name}.json`)

/** Writes nothing. `isNew`: the file is still to be written. Refuses a device whose size has changed. */
export function identifyVolume(
  state: string,
  name: string,
  device: string,
  sizeBytes: bigint,
): { identity: VolumeIdentity; isNew: boolean } {
  const path = volumePath(state, name)
  const stored = readJson(path)
  if (stored === undefined) return { identity: { name, uuid: randomUUID(), device, sizeBytes }, isNew: true }
  const { uuid, sizeBytes: storedSize, device: storedDevice } = stored
  if (
    typeof uuid !== 'string' ||
    typeof storedSize !== 'string' ||
    !/^\d+$/.test(storedSize) ||
    typeof storedDevice !== 'string'
  ) {
    throw new OperationError(
      'DAMAGED_FILE',
      `read ${path}: uuid, device or sizeBytes is missing; restore the file, or remove it to start a new volume`,
    )
  }
  if (BigInt(storedSize) !== sizeBytes) throw sizeChanged(path, name, device, BigInt(storedSize), sizeBytes)
  return { identity: { name, uuid, device: storedDevice, sizeBytes }, isNew: false }
}

/** Of a copy that becomes the volume: what it is of is known, and its file is still to be written. */
export function identifyCopy(copy: Omit<VolumeIdentity, 'device'>, device: string, sizeBytes: bigint): VolumeIdentity {
  const { name, uuid } = copy
  if (copy.sizeBytes === sizeBytes) return { name, uuid, device, sizeBytes }
  const what = `volume ${name}: ${device} has ${sizeBytes} bytes, and is a copy of one with ${copy.sizeBytes}`
  throw new UnderstudyError('SIZE_CHANGED', `${what}; give it that size`, { exitCode: 2 })
}

export function encodeVolume(identity: VolumeIdentity): object {
  return { version: 1, ...identity, sizeBytes: String(identity.sizeBytes) }
}

function sizeChanged(path: string, name: string, device: string, before: bigint, now: bigint): UnderstudyError {
  const what = `volume ${name}: ${device} has ${now} bytes (${formatSize(now)}) and had ${before} (${formatSize(before)}) when the volume was made`
  const todo = now < before ? 'grow it back' : 'shrink it back'
  return new UnderstudyError('SIZE_CHANGED', `${what}; ${todo}, or remove ${path} to start a new volume`, {
    exitCode: 2,
  })
}
