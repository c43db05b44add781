/** Random 64-bit ids: incarnations and generations. */
import { randomBytes } from 'node:crypto'

/** Never 0, which stands for none. */
export function random64(): bigint {
  for (;;) {
    const value = randomBytes(8).readBigUInt64LE()
    if (value !== 0n) return value
  }
}
