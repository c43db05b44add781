/** What this host's kernel says of its nbd devices: /sys/block/nbdN (Linux, drivers/block/nbd.c). */
import { closeSync, constants, openSync, readFileSync, writeFileSync } from 'node:fs'

import { errnoOf } from '../core/errors.js'

export interface NbdKernel {
  /** Of the process that connected it; undefined: it is not connected. */
  pid(index: number): string | undefined
  /** The identifier that it was connected with; '' for none. */
  identifier(index: number): string
  /** Mounted, swapped to, part of a volume group, or opened exclusively otherwise. */
  inUse(index: number): boolean
  /** After so long a request that was sent and not answered is looked at, and sent again if its socket is another by now. */
  setRequestTimer(index: number, milliseconds: number): void
}

export const deviceOf = (index: number): string => `/dev/nbd${index}`

export const nbdKernel: NbdKernel = {
  pid: index => {
    const text = attribute(index, 'pid')
    return text === '' ? undefined : text
  },
  identifier: index => attribute(index, 'backend'),
  inUse: index => {
    try {
      closeSync(openSync(deviceOf(index), constants.O_RDONLY | constants.O_EXCL | constants.O_NONBLOCK))
      return false
    } catch (error) {
      return errnoOf(error) === 'EBUSY'
    }
  },
  setRequestTimer: (index, milliseconds) => {
    try {
      writeFileSync(`/sys/block/nbd${index}/queue/io_timeout`, String(milliseconds))
    } catch {
      // It stays at the kernel's 30 s: what was under way when a daemon dies takes so much longer.
    }
  },
}

function attribute(index: number, name: string): string {
  try {
    return readFileSync(`/sys/block/nbd${index}/${name}`, 'utf8').trim()
  } catch {
    return ''
  }
}
