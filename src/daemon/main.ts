/** Runs a daemon in this process until it leaves. */
import type { Config } from '../core/config-types.js'
import { describe, exitCodeOf } from '../core/errors.js'
import { DaemonProcess } from './daemon-process.js'
import { preflight } from './preflight.js'
import { takeOverInTime } from './successor.js'

/**
 * Resolves when everything is open and said so on stdout. When that fails the process ends: one line, the exit code.
 * `maxStallMs`: in place of the daemon that runs, whose clients may wait so long.
 */
export async function runDaemon(config: Config, { maxStallMs }: { maxStallMs?: number } = {}): Promise<void> {
  preflight(config)
  const host = new DaemonProcess(config)
  try {
    if (maxStallMs === undefined) await host.daemon.start()
    else await takeOverInTime(host, maxStallMs)
  } catch (error) {
    process.stderr.write(`understudy: ${describe(error)}\n`)
    host.leaver.leave(exitCodeOf(error))
    return
  }
  host.ready()
}
