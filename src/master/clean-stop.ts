/** Bringing a group to rest: the wait for the standby, and the devices' own caches. */
import { open } from 'node:fs/promises'

import type { Clock } from '../core/clock.js'
import { sleep } from '../core/clock.js'

export interface DrainOptions {
  clock: Clock
  drainMs: number
  /** How long a session that is lost meanwhile may take to come back. */
  reconnectMs: number
  /** Everything is applied on the standby and nothing is dirty. */
  drained: () => boolean
  connected: () => boolean
}

const pollMs = 10

/** True: the standby has everything. A standby that is away at the beginning is not waited for. */
export async function waitDrained({ clock, drainMs, reconnectMs, drained, connected }: DrainOptions): Promise<boolean> {
  const began = clock.monotonicMs()
  let lastConnected = connected() ? began : -Infinity
  for (;;) {
    if (drained()) return true
    const now = clock.monotonicMs()
    if (connected()) lastConnected = now
    if (now - began >= drainMs || now - lastConnected >= reconnectMs) return false
    await sleep(clock, pollMs)
  }
}

/** fsync through a descriptor of our own: the kernel writes back whatever any descriptor wrote. */
export async function flushDevice(path: string): Promise<void> {
  const file = await open(path, 'r')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}
