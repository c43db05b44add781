/**
 * A copy as a file of its own, by reflink: why there can be none, in words. How it is made: native/replay/image-file.h.
 */
import { existsSync } from 'node:fs'
import { dirname } from 'node:path'

import type { ExportFormat } from '../core/config-types.js'
import { errnoOf, NativeError, OperationError } from '../core/errors.js'
import type { Point } from '../native/binding.js'
import type { ReplicaVolume } from './replica-file.js'
import { vhdFooter } from './vhd-footer.js'

/** What is to be made, and where: an absolute path at which there is nothing. */
export interface FileWish {
  path: string
  format: ExportFormat
}

/** Behind the last byte of the volume. */
export function tailOf(volume: ReplicaVolume, format: ExportFormat): Uint8Array {
  return format === 'vhd' ? vhdFooter(volume) : new Uint8Array()
}

/** Of the place, not of the image. */
const noPlace = ['ENOENT', 'ENOTDIR', 'EACCES', 'EROFS']
const noReflink = ['EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOTTY']

/** `make`: Addon.cloneImage() with these. What it throws for another reason is left as it is. */
export async function makeFile(volume: ReplicaVolume, wish: FileWish, make: () => Promise<Point>): Promise<Point> {
  const { path, format } = wish
  const action = `export ${volume.name}`
  try {
    return await make()
  } catch (error) {
    const errno = errnoOf(error) ?? ''
    if (errno === 'EEXIST')
      throw new OperationError('EXISTS', `${action}: ${path} is there already, and is left as it is`, { cause: error })
    const directory = dirname(path)
    if (noPlace.includes(errno) && !existsSync(directory))
      throw new OperationError(
        'NO_DIRECTORY',
        `${action}: there is no directory ${directory} on this host; make it, or name another`,
        { cause: error },
      )
    if (noPlace.includes(errno)) throw new NativeError(`${action}: make a file in ${directory}`, error)
    if (!noReflink.includes(errno)) throw error
    const needs = 'a copy that is a file, on a file system with reflink (XFS, btrfs), and a place on the same one'
    const other = `understudy export ${volume.name} --format ${format} --listen unix:PATH`
    throw new OperationError(
      'NO_REFLINK',
      `${action}: ${path} cannot be made without copying (${errno}): that takes ${needs}; to copy it: '${other}', then nbdcopy`,
      { cause: error },
    )
  }
}
