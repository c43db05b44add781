/** Bringing a group to rest: the wait for the standby, and the devices' own caches. */
import { open } from 'node:fs/promises'

import type { Clock } from '../core/clock.js'
import { sleep } from '../core/clock.js'
import { readDeviceFacts } from '../core/device-facts.js'
import type { Addon } from '../native/binding.js'
import type { CleanStop } from './group-file.js'
import type { OpenVolume } from './open-volumes.js'

export interface DrainOptions {
  clock: Clock
  drainMs: number
  /** How long a session that is lost meanwhile may take to come back. */
  reconnectMs: number
  /** Everything is applied on the standby and nothing is dirty. */
  drained: () => boolean
  connected: () => boolean
  /** Monotonic: when the last session was lost; absent: there was none. */
  lostMs?: number
}

const pollMs = 10

/** True: the standby has everything. A standby that has been away for long is not waited for. */
export async function waitDrained(options: DrainOptions): Promise<boolean> {
  const { clock, drainMs, reconnectMs, drained, connected, lostMs = -Infinity } = options
  const began = clock.monotonicMs()
  let lastConnected = connected() ? began : lostMs
  for (;;) {
    if (drained()) return true
    const now = clock.monotonicMs()
    if (connected()) lastConnected = now
    if (now - began >= drainMs || now - lastConnected >= reconnectMs) return false
    await sleep(clock, pollMs)
  }
}

/**
 * What clients wrote to its device is on disk, and only then its dirty map, which may now forget what was hot. `maps`: the
 * device was flushed already, and the map goes there as a descriptor, for the process that goes on.
 */
export async function saveVolume(
  addon: Pick<Addon, 'finishMap' | 'handOverMap'>,
  { config, handle, identity }: OpenVolume,
  maps?: number[],
): Promise<{ sequence: bigint; saved: CleanStop['volumes'][number] }> {
  const saved = { uuid: identity.uuid, device: config.device }
  if (maps !== undefined) {
    const { sequence, fd } = await addon.handOverMap(handle)
    maps.push(fd)
    return { sequence, saved }
  }
  await flushDevice(config.device)
  const { sequence } = await addon.finishMap(handle)
  return { sequence, saved }
}

/** What the devices look like now that nobody writes to them any more. */
export function withChangeMarks(clean: CleanStop): CleanStop {
  const volumes = clean.volumes.map(volume => {
    const { changeMark } = readDeviceFacts(volume.device, "the volume's device")
    return changeMark === undefined ? volume : { ...volume, changeMark }
  })
  return { ...clean, volumes }
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
