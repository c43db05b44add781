/**
 * STATE: private to the user who runs the daemon, and to one daemon at a time.
 *
 * Guarantees: of two daemons started on one directory, one is refused, whatever the timing and however the first one
 * ended: the lock is the kernel's flock on STATE/lock, which dies with the process. The file says who holds it.
 */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { dirname, join } from 'node:path'

import { makeDirectory } from '../core/atomic-file.js'
import { describe, errnoOf, NativeError, OperationError, SafetyRefusal } from '../core/errors.js'

export const identityPath = (state: string): string => join(state, 'identity', 'key.pem')
export const controlSocketPath = (state: string): string => join(state, 'control.sock')

export interface StateLock {
  /** Whoever has a duplicate of it has the lock. */
  readonly fd: number
  release(): void
}

/**
 * Makes STATE (0700) when missing, and returns the first directory that was made for it. Refuses one that other users
 * could change under us.
 */
export function prepareStateDirectory(state: string): string | undefined {
  let made: string | undefined
  try {
    made = makeDirectory(state)
  } catch (error) {
    if (errnoOf(error) === 'EEXIST')
      throw new OperationError('ENOTDIR', `state directory ${state}: it is not a directory`, { cause: error })
    throw new NativeError(`state directory ${state}: cannot make it`, error)
  }
  checkPrivacy(state)
  return made
}

/** After a start that failed: takes away what it made, up to `firstMade`; whatever else is there stays. */
export function removeNewState(state: string, firstMade: string): void {
  for (const file of [identityPath(state), join(state, 'lock')]) rmSync(file, { force: true })
  for (const name of ['identity', 'groups', 'volumes']) removeEmpty(join(state, name))
  for (let directory = state; directory.length >= firstMade.length; directory = dirname(directory)) {
    if (!removeEmpty(directory)) return
  }
}

function removeEmpty(directory: string): boolean {
  try {
    rmdirSync(directory)
    return true
  } catch {
    return false // Missing, or somebody else's files are in it.
  }
}

function checkPrivacy(state: string): void {
  const stat = statSync(state)
  if ((stat.mode & 0o077) === 0) return
  if (isOurs(state) && stat.uid === process.getuid?.()) {
    chmodSync(state, 0o700)
  } else if ((stat.mode & 0o022) !== 0) {
    throw new SafetyRefusal(
      'STATE_OPEN',
      `state directory ${state}: other users can write to it; use a directory of its own (chmod 700 ${state})`,
    )
  }
}

/** Empty, or used as a state directory before: nobody minds when its mode is tightened. */
function isOurs(state: string): boolean {
  const names = readdirSync(state)
  return names.length === 0 || names.includes('identity') || names.includes('lock')
}

export function lockStateDirectory(state: string): StateLock {
  const path = join(state, 'lock')
  const descriptor = openLock(path)
  try {
    // flock(1) locks the open file description that it inherits; our descriptor keeps the lock after it has ended.
    const result = spawnSync('flock', ['--exclusive', '--nonblock', '3'], {
      stdio: ['ignore', 'ignore', 'ignore', descriptor],
    })
    if (result.error !== undefined) throw new NativeError('flock (package util-linux)', result.error)
    if (result.status !== 0) throw inUse(state, path)
    return inheritLock(descriptor)
  } catch (error) {
    closeSync(descriptor)
    throw error
  }
}

/** The lock is held already; now it names this process. */
export function inheritLock(descriptor: number): StateLock {
  ftruncateSync(descriptor)
  writeSync(descriptor, `${process.pid}\n`, 0)
  return { fd: descriptor, release: () => closeSync(descriptor) }
}

function openLock(path: string): number {
  try {
    return openSync(path, 'a+', 0o600)
  } catch (error) {
    throw new NativeError(`lock ${path}: cannot open it`, error)
  }
}

function inUse(state: string, path: string): SafetyRefusal {
  const holder = readHolder(path)
  return new SafetyRefusal(
    'STATE_IN_USE',
    `state directory ${state}: another daemon uses it${holder}; stop that one or choose another --state`,
  )
}

function readHolder(path: string): string {
  try {
    const text = readFileSync(path, 'utf8').trim()
    return /^\d+$/.test(text) ? ` (process ${text})` : ''
  } catch (error) {
    return ` (${describe(error)})`
  }
}
