/**
 * One payload, several formats: beside image.raw lie descriptions of it that other hypervisors read, and nothing is
 * copied. They are made with a group's first machine (recovery/machines.ts).
 *
 *   STORE/VOLUME/image.raw     the copy, or the device that stands for it
 *   STORE/VOLUME/image.vmdk    a flat VMDK of it
 *   STORE/VOLUME/image.qcow2   a qcow2 with it as raw external data file
 *   STORE/VOLUME/image.cut     while no daemon has it: how it was left
 *
 * Guarantees: no reader of a description takes for a cut what is none (G2). While a daemon has the image, and after one was
 * killed, the descriptions refuse to be opened and say why; they can be opened once a daemon has applied everything and
 * has let go of the image. That is on disk before the image is touched. Who has written to it meanwhile is found out.
 */
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

import { makeDirectory, readJson, removeDurably, replaceFile, writeJson } from '../core/atomic-file.js'
import { NativeError, OperationError } from '../core/errors.js'
import type { ReplicaVolume } from './replica-file.js'
import { makeQcow2, markQcow2, type Qcow2 } from './qcow2-file.js'
import { vmdkDescriptor } from './vmdk-descriptor.js'

const names = { vmdk: 'image.vmdk', qcow2: 'image.qcow2' } as const
export type DescribedFormat = keyof typeof names

const leftName = 'image.cut'
const sectorBytes = 512n
const pathBytesMax = 1000

export interface DescribedVolume extends Pick<ReplicaVolume, 'uuid' | 'sizeBytes' | 'device'> {
  name: string
}

/** `folder`: Store.imageDirectory(). */
export const formatPath = (folder: string, format: DescribedFormat): string => join(folder, names[format])

/** Why there can be no descriptions of a volume; undefined: there can. */
export function formatProblem({ name, sizeBytes, device }: DescribedVolume): string | undefined {
  if (sizeBytes % sectorBytes !== 0n)
    return `volume ${name}: its ${sizeBytes} bytes are no multiple of ${sectorBytes}, as every format but raw needs it`
  if (device !== undefined && (/["\n]/.test(device) || Buffer.byteLength(device) > pathBytesMax))
    return `volume ${name}: the path of its device cannot be written in a VMDK`
  return undefined
}

/** Makes those that are missing or of another disk; as no cut, since a daemon has the image. */
export function describeVolume(folder: string, volume: DescribedVolume): void {
  try {
    makeDirectory(folder)
    writeVmdk(folder, volume, false)
    if (!isQcow2Marked(folder, volume, false)) writeQcow2(folder, volume)
  } catch (error) {
    throw new NativeError(`describe volume ${volume.name} in ${folder}`, error)
  }
}

export function forgetDescriptions(folder: string): void {
  for (const name of [...Object.values(names), leftName]) rmSync(join(folder, name), { force: true })
}

/** Before markDescriptions() takes it back: the image was left as a cut, and is not any more what it was then. */
export function wasWrittenTo(folder: string, volume: DescribedVolume): boolean {
  const left = readJson(join(folder, leftName))
  return left !== undefined && left['changeMark'] !== changeMark(folder, volume)
}

/** Devices do not tell. */
function changeMark(folder: string, { device }: DescribedVolume): string {
  if (device !== undefined) return ''
  const { size, mtimeNs } = statSync(join(folder, 'image.raw'), { bigint: true })
  return `${size}:${mtimeNs}`
}

/** Of a volume that has descriptions; durable when it returns. One that cannot be marked is removed: it would lie. */
export function markDescriptions(folder: string, volume: DescribedVolume, isCut: boolean): void {
  if (!existsSync(formatPath(folder, 'vmdk')) && !existsSync(formatPath(folder, 'qcow2'))) return
  try {
    if (formatProblem(volume) !== undefined) throw new OperationError('SIZE', 'no description fits it')
    if (!isQcow2Marked(folder, volume, isCut)) {
      writeQcow2(folder, volume)
      if (isCut) isQcow2Marked(folder, volume, isCut)
    }
    writeVmdk(folder, volume, isCut)
    if (isCut) writeJson(join(folder, leftName), { changeMark: changeMark(folder, volume) })
    else removeDurably(join(folder, leftName))
  } catch (error) {
    forgetDescriptions(folder)
    throw new NativeError(`mark the descriptions of volume ${volume.name} in ${folder} (they were removed)`, error)
  }
}

/** QEMU looks for it from its working directory; when the store was moved, the file is made anew at the next start. */
const qcow2Of = (folder: string, { sizeBytes, device }: DescribedVolume): Qcow2 => ({
  sizeBytes,
  dataFile: device ?? resolve(folder, 'image.raw'),
})

function isQcow2Marked(folder: string, volume: DescribedVolume, isCut: boolean): boolean {
  const path = formatPath(folder, 'qcow2')
  return existsSync(path) && markQcow2(path, qcow2Of(folder, volume), isCut)
}

function writeQcow2(folder: string, volume: DescribedVolume): void {
  replaceFile(formatPath(folder, 'qcow2'), path => makeQcow2(path, qcow2Of(folder, volume)))
}

function writeVmdk(folder: string, volume: DescribedVolume, isCut: boolean): void {
  const path = formatPath(folder, 'vmdk')
  const text = vmdkDescriptor({ ...volume, extent: volume.device ?? 'image.raw' }, isCut)
  if (existsSync(path) && readFileSync(path, 'utf8') === text) return
  replaceFile(path, temporary => writeFileSync(temporary, text, { mode: 0o600 }))
}
