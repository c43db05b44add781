/**
 * Files with secrets: private keys, pre-shared keys. Who else could read or change one might be us to others, so it is
 * refused before it is used, with one line that says what to do.
 */
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs'

import { NativeError, UsageError } from './errors.js'

const bytesMax = 1 << 20

/** Throws UsageError (exit code 2) when others may use it, NativeError when it cannot be read. */
export function readPrivateFile(path: string, what: string): string {
  const file = open(path, what)
  try {
    // Of the open file: it cannot be exchanged between the look and the reading.
    const { mode, uid, size } = fstatSync(file)
    const bits = (mode & 0o777).toString(8).padStart(4, '0')
    if ((mode & 0o077) !== 0)
      throw new UsageError(`${what} ${path}: other users may read it (mode ${bits}); run: chmod 600 ${path}`)
    if (uid !== 0 && uid !== process.geteuid?.())
      throw new UsageError(`${what} ${path}: it belongs to another user (${uid}), who may read and change it`)
    if (size > bytesMax) throw new UsageError(`${what} ${path}: the file is larger than 1 MiB`)
    return readFileSync(file, 'utf8')
  } finally {
    closeSync(file)
  }
}

function open(path: string, what: string): number {
  try {
    return openSync(path, 'r')
  } catch (error) {
    throw new NativeError(`${what} ${path}: cannot read it`, error)
  }
}
