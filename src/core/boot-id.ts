/** Which start of this host's kernel this is: as long as it is the same, what was in the page cache is not lost. */
import { readFileSync } from 'node:fs'

import { random64 } from './random64.js'

/** A number of its own where the kernel does not tell: then each start counts as one of the host. */
export function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  } catch {
    return random64().toString(16)
  }
}
