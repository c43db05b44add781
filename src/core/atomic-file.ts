/**
 * Small JSON files that survive a power cut whole: after writeJson returns, a reader sees the new content; before, the
 * old one; never a mixture. Each file is written by one process.
 *
 *   1. PATH.new is written and synced  2. renamed over PATH  3. the directory is synced
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'

import { errnoOf, NativeError, OperationError } from './errors.js'

/** Makes the directory of `path` when missing. */
export function writeJson(path: string, value: unknown): void {
  try {
    makeDirectory(dirname(path))
    const text = `${JSON.stringify(value, null, 2)}\n`
    replaceFile(path, temporary => writeFileSync(temporary, text, { mode: 0o600 }))
  } catch (error) {
    throw new NativeError(`write ${path}`, error)
  }
}

/** The three steps above, for a file of any kind; `make` does the writing of the first. */
export function replaceFile(path: string, make: (temporary: string) => void): void {
  const temporary = `${path}.new`
  make(temporary)
  const descriptor = openSync(temporary, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
  renameSync(temporary, path)
  syncDirectory(dirname(path))
}

/** Undefined: there is none. Throws when it cannot be read or is no JSON object. */
export function readJson(path: string): Record<string, unknown> | undefined {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw new NativeError(`read ${path}`, error)
  }
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
    throw new SyntaxError('it is no JSON object')
  } catch (error) {
    throw new OperationError(
      'DAMAGED_FILE',
      `read ${path}: the file is damaged (${(error as Error).message}); restore it, or remove it to begin anew`,
      {
        cause: error,
      },
    )
  }
}

export function removeDurably(path: string): void {
  try {
    unlinkSync(path)
    syncDirectory(dirname(path))
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw new NativeError(`remove ${path}`, error)
  }
}

/**
 * As mkdir -p; a new directory's entry is synced, so that files in it cannot be lost with it. Returns the first that was
 * made, undefined when all were there. (Not mkdirSync's own recursion: on /proc, where mkdir says ENOENT, it never ends.)
 */
export function makeDirectory(path: string): string | undefined {
  let first: string | undefined
  try {
    mkdirSync(path, { mode: 0o700 })
  } catch (error) {
    const parent = dirname(path)
    if (errnoOf(error) === 'EEXIST' && statSync(path).isDirectory()) return undefined
    if (errnoOf(error) !== 'ENOENT' || existsSync(parent)) throw error
    first = makeDirectory(parent)
    mkdirSync(path, { mode: 0o700 })
  }
  syncDirectory(dirname(path))
  return first ?? path
}

export function syncDirectory(path: string): void {
  const descriptor = openSync(path, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}
