/** What the file system says of a device before anyone opens it: size, sector, and whether it may have changed. */
import { readFileSync, statSync } from 'node:fs'

import { NativeError, UnderstudyError } from './errors.js'

export interface DeviceFacts {
  sizeBytes: bigint
  isBlockDevice: boolean
  /** Bytes of a sector; 1 for a file. */
  sectorBytes: number
  /** Changes whenever a file was written to; undefined for a block device, which does not tell. */
  changeMark?: string
}

/** `what` begins the message, for example "volume disk1". */
export function readDeviceFacts(path: string, what: string): DeviceFacts {
  try {
    const stat = statSync(path, { bigint: true })
    if (stat.isFile()) {
      const changeMark = `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}`
      return { sizeBytes: stat.size, isBlockDevice: false, sectorBytes: 1, changeMark }
    }
    if (!stat.isBlockDevice()) {
      throw new UnderstudyError('NOT_A_DEVICE', `${what}: ${path} is neither a file nor a block device`, {
        exitCode: 2,
      })
    }
    const [major, minor] = deviceNumbers(stat.rdev)
    const sys = `/sys/dev/block/${major}:${minor}`
    const sectors = BigInt(readFileSync(`${sys}/size`, 'utf8').trim())
    return { sizeBytes: sectors * 512n, isBlockDevice: true, sectorBytes: sectorBytes(sys) }
  } catch (error) {
    if (error instanceof UnderstudyError) throw error
    throw new NativeError(`${what}: ${path}`, error)
  }
}

/** A partition has no queue of its own: its disk's is one level up. */
function sectorBytes(sys: string): number {
  for (const queue of [`${sys}/queue`, `${sys}/../queue`]) {
    try {
      return Number(readFileSync(`${queue}/logical_block_size`, 'utf8'))
    } catch {
      // Not here: the next place, or what nearly every disk has.
    }
  }
  return 512
}

/** makedev(3) of Linux, undone. */
function deviceNumbers(device: bigint): [major: bigint, minor: bigint] {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n)
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n)
  return [major, minor]
}
