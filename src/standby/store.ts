/**
 * The store: where a standby keeps its copies.
 *
 *   STORE/.lock                          flock of the one daemon that uses it
 *   STORE/.groups/GROUP/replica.json     whose copy it is (replica-file.ts)
 *   STORE/.groups/GROUP/segments/ ...    the engine's log and watermark
 *   STORE/VOLUME/image.raw               the copy
 *   STORE/.saved/VOLUME-TIME.raw         what a side had that lost a decision
 *
 * Guarantees: one daemon at a time, whatever the timing; names that come from a master cannot lead out of the store.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, openSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

import { makeDirectory, writeJson } from '../core/atomic-file.js'
import { describe, errnoOf, NativeError, SafetyRefusal } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { encodeReplica, readReplica, type ReplicaRecord, type ReplicaVolume } from './replica-file.js'

const nameBytesMax = 200

/** Why a volume's or group's name cannot be a folder's; undefined: it can. */
export function nameProblem(name: string): string | undefined {
  if (name === '') return 'the name is empty'
  if (Buffer.byteLength(name) > nameBytesMax) return `the name is longer than ${nameBytesMax} bytes`
  if (name.startsWith('.')) return `the name '${name}' begins with a dot`
  // eslint-disable-next-line no-control-regex
  if (/[/\\\x00-\x1f\x7f]/.test(name)) return 'the name contains a slash or a control character'
  return undefined
}

export class Store {
  /** Makes the folder when missing, and locks it. */
  static open(path: string): Store {
    try {
      makeDirectory(path)
    } catch (error) {
      throw new NativeError(`store ${path}: cannot make it`, error)
    }
    return new Store(path, lock(path))
  }

  private constructor(
    readonly path: string,
    private lockDescriptor: number,
  ) {}

  close(): void {
    if (this.lockDescriptor >= 0) closeSync(this.lockDescriptor)
    this.lockDescriptor = -1
  }

  groupDirectory(group: string): string {
    return join(this.path, '.groups', group)
  }

  imageDirectory(volume: string): string {
    return join(this.path, volume)
  }

  imagePath(volume: Pick<ReplicaVolume, 'name' | 'device'>): string {
    return volume.device ?? join(this.imageDirectory(volume.name), 'image.raw')
  }

  /** Of what a side had that lost a decision (saved-regions.ts). */
  get savedDirectory(): string {
    return join(this.path, '.saved')
  }

  hasImage(volume: string): boolean {
    return existsSync(this.imagePath({ name: volume }))
  }

  save(record: ReplicaRecord): void {
    writeJson(join(this.groupDirectory(record.group), 'replica.json'), encodeReplica(record))
  }

  /** Makes the folders of a new group's images and its file, in this order. */
  create(record: ReplicaRecord): void {
    for (const volume of record.volumes)
      if (volume.device === undefined) makeDirectory(this.imageDirectory(volume.name))
    this.save(record)
  }

  read(group: string): ReplicaRecord | undefined {
    return readReplica(join(this.groupDirectory(group), 'replica.json'))
  }

  /** All groups of the store. A folder whose file cannot be read is reported and left alone. */
  load(log: Logger): ReplicaRecord[] {
    const records: ReplicaRecord[] = []
    for (const name of listDirectory(join(this.path, '.groups'))) {
      try {
        const record = readReplica(join(this.groupDirectory(name), 'replica.json'))
        if (record?.group === name) records.push(record)
        else if (record !== undefined)
          log.error(`store ${this.path}: the folder .groups/${name} belongs to group '${record.group}'; rename it back`)
      } catch (error) {
        log.error(`store ${this.path}: group ${name} is left alone: ${describe(error)}`)
      }
    }
    return records
  }
}

function listDirectory(path: string): string[] {
  try {
    return readdirSync(path).sort()
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return []
    throw new NativeError(`store: read ${path}`, error)
  }
}

/** flock(1) locks the open file description that it inherits; our descriptor keeps the lock, and dies with us. */
function lock(store: string): number {
  const path = join(store, '.lock')
  let descriptor: number
  try {
    descriptor = openSync(path, 'a', 0o600)
  } catch (error) {
    throw new NativeError(`store ${store}: open ${path}`, error)
  }
  const result = spawnSync('flock', ['--exclusive', '--nonblock', '3'], {
    stdio: ['ignore', 'ignore', 'ignore', descriptor],
  })
  if (result.status === 0) return descriptor
  closeSync(descriptor)
  if (result.error !== undefined)
    throw new NativeError(`store ${store}: lock it with flock (package util-linux)`, result.error)
  throw new SafetyRefusal(
    'STORE_IN_USE',
    `store ${store}: another daemon uses it; stop that one or choose another --store`,
  )
}
