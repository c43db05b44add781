/**
 * What a side has that loses a decision between two histories: the regions that may differ, in a sparse file of the
 * volume's size (STORE/.saved/VOLUME-TIME.raw), with a list of them beside it (.json). `understudy export --saved` serves it.
 */
import { existsSync, readdirSync } from 'node:fs'
import { open, statfs } from 'node:fs/promises'
import { join } from 'node:path'

import { makeDirectory, syncDirectory, writeJson } from '../core/atomic-file.js'
import { NativeError, OperationError } from '../core/errors.js'
import { formatSize } from '../core/units.js'
import type { Origin, ReplicaRecord } from './replica-file.js'
import type { Store } from './store.js'

export interface SavedVolume {
  name: string
  path: string
  sizeBytes: bigint
  /** [start, end) pairs. */
  ranges: bigint[]
}

const chunkBytes = 1 << 20

/** Returns the file's path once it is on stable storage. A hole of the device stays a hole. */
async function saveRegions(folder: string, volume: SavedVolume, time: string): Promise<string> {
  makeDirectory(folder)
  const path = join(folder, `${volume.name}-${time.replace(/[^0-9T]/g, '')}.raw`)
  await refuseWithoutSpace(folder, volume)
  try {
    const from = await open(volume.path, 'r')
    const to = await open(path, 'wx', 0o600)
    try {
      await to.truncate(Number(volume.sizeBytes))
      for (let at = 0; at + 1 < volume.ranges.length; at += 2)
        await copyRange(from, to, Number(volume.ranges[at]), Number(volume.ranges[at + 1]))
      await to.sync()
    } finally {
      await Promise.all([from.close(), to.close()])
    }
    writeJson(`${path}.json`, { version: 1, volume: volume.name, time, ranges: volume.ranges.map(String) })
    syncDirectory(folder)
    return path
  } catch (error) {
    throw new NativeError(`save what only this side has of volume ${volume.name} to ${path}`, error)
  }
}

/** One line a volume. */
export async function saveVolumes(folder: string, volumes: readonly SavedVolume[], time: string): Promise<string[]> {
  const lines: string[] = []
  for (const volume of volumes) {
    const path = await saveRegions(folder, volume, time)
    lines.push(`${volume.name}: what only this side may have was saved to ${path}`)
  }
  return lines
}

/** Of a copy that was a master's device: everything that may be here only. */
export function saveAll(
  record: ReplicaRecord,
  store: Store,
  suspects: Origin['suspects'],
  time: string,
): Promise<string[]> {
  const volumes = record.volumes.map(volume => {
    const ranges = suspects?.[volume.name] ?? [0n, volume.sizeBytes]
    return { ...volume, path: store.imagePath(volume), ranges }
  })
  return saveVolumes(store.savedDirectory, volumes, time)
}

/** Throws when nothing was saved of the volume. */
export function newestSaved(folder: string, volume: string): string {
  const names = existsSync(folder) ? readdirSync(folder) : []
  const found = names.filter(name => name.startsWith(`${volume}-`) && /-[0-9T]+\.raw$/.test(name)).sort()
  const newest = found.at(-1)
  if (newest === undefined)
    throw new OperationError('NOT_SAVED', `export ${volume}: nothing was saved of it in ${folder}`)
  return join(folder, newest)
}

type File = Awaited<ReturnType<typeof open>>

async function copyRange(from: File, to: File, start: number, end: number): Promise<void> {
  const buffer = Buffer.alloc(chunkBytes)
  for (let at = start; at < end;) {
    const { bytesRead } = await from.read(buffer, 0, Math.min(chunkBytes, end - at), at)
    if (bytesRead === 0) return
    const data = buffer.subarray(0, bytesRead)
    if (!data.every(byte => byte === 0)) await to.write(data, 0, bytesRead, at)
    at += bytesRead
  }
}

async function refuseWithoutSpace(folder: string, { name, ranges }: SavedVolume): Promise<void> {
  let needed = 0n
  for (let at = 0; at + 1 < ranges.length; at += 2) needed += (ranges[at + 1] ?? 0n) - (ranges[at] ?? 0n)
  const { bavail, bsize } = await statfs(folder)
  if (BigInt(bavail) * BigInt(bsize) >= needed) return
  throw new OperationError(
    'NO_SPACE',
    `volume ${name}: what only this side may have takes up to ${formatSize(Number(needed))}, and ${folder} has ${formatSize(bavail * bsize)}; make room there first`,
  )
}
