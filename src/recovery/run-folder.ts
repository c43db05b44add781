/**
 * STORE/.groups/GROUP/running/NAME/: what runs. On disk before anything else of it is, and gone when all of it is gone; so
 * that a daemon that was killed in the middle leaves nothing that the next one does not find.
 *
 *   run.json                 what it is to be (below)
 *   pid                      QEMU's, written and locked by QEMU itself
 *   disks, console, monitor  sockets: its disks, its serial console, its monitor (QMP)
 *   log                      what QEMU says
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'

import { readJson, syncDirectory, writeJson } from '../core/atomic-file.js'
import { describe, errnoOf, NativeError, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'

/** promoted: on the group's own disks, of which this host is the master; the others on views that are thrown away. */
export const runKinds = ['promoted', 'throw-away', 'drill'] as const
export type RunKind = (typeof runKinds)[number]

/** starting: asked for, and not yet there; printed: QEMU is run by others, who were told how. */
export const runStates = ['starting', 'running', 'printed'] as const
export type RunState = (typeof runStates)[number]

export interface RunRecord {
  machine: string
  kind: RunKind
  state: RunState
  /** What it becomes is printed, not running: also when another daemon goes on. */
  prints: boolean
  /** ISO 8601 */
  since: string
}

/** sun_path of unix(7), less the zero. */
const socketPathMax = 107

export class RunFolder {
  /** Made anew. Throws when it is there already. */
  static make(groupDirectory: string, name: string, record: RunRecord): RunFolder {
    const folder = new RunFolder(join(groupDirectory, 'running', name), record)
    if (Buffer.byteLength(folder.console) > socketPathMax)
      throw new OperationError(
        'PATH_TOO_LONG',
        `vm: the path of a socket would be longer than ${socketPathMax} bytes: ${folder.console}; choose a store with a shorter path`,
      )
    try {
      mkdirSync(folder.path, { recursive: true, mode: 0o700 })
    } catch (error) {
      throw new NativeError(`vm: make ${folder.path}`, error)
    }
    folder.save(record.state)
    return folder
  }

  /** All that a daemon before this one has left, or has running. One that cannot be read is reported, and left alone. */
  static all(groupDirectory: string, log: Logger): RunFolder[] {
    const parent = join(groupDirectory, 'running')
    return list(parent).flatMap(name => {
      const path = join(parent, name)
      try {
        const record = decode(readJson(join(path, 'run.json')))
        if (record !== undefined) return [new RunFolder(path, record)]
        rmSync(path, { recursive: true, force: true }) // It was being made: nothing was started.
      } catch (error) {
        log.error(`vm: ${path} is left alone: ${describe(error)}`)
      }
      return []
    })
  }

  private constructor(
    readonly path: string,
    private readonly stored: RunRecord,
  ) {}

  get record(): Readonly<RunRecord> {
    return this.stored
  }

  get pidFile(): string {
    return join(this.path, 'pid')
  }

  get disks(): string {
    return join(this.path, 'disks')
  }

  get console(): string {
    return join(this.path, 'console')
  }

  get monitor(): string {
    return join(this.path, 'monitor')
  }

  get log(): string {
    return join(this.path, 'log')
  }

  save(state: RunState): void {
    this.stored.state = state
    writeJson(join(this.path, 'run.json'), { version: 1, ...this.stored })
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true })
    syncDirectory(join(this.path, '..'))
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path).sort()
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return []
    throw new NativeError(`vm: read ${path}`, error)
  }
}

function decode(stored: Record<string, unknown> | undefined): RunRecord | undefined {
  if (stored === undefined) return undefined
  const { machine, since } = stored
  const kind = runKinds.find(known => known === stored['kind'])
  const state = runStates.find(known => known === stored['state'])
  if (typeof machine !== 'string' || typeof since !== 'string' || kind === undefined || state === undefined)
    throw new OperationError('DAMAGED_FILE', 'run.json is damaged; end what runs, and remove the folder')
  return { machine, kind, state, prints: stored['prints'] === true, since }
}
