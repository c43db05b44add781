/** Runs a daemon in this process until it leaves. */
import type { Config } from '../core/config-types.js'
import { describe, exitCodeOf } from '../core/errors.js'
import { DaemonProcess } from './daemon-process.js'
import { preflight } from './preflight.js'
import { takeOver } from './successor.js'

/** Resolves when everything is open and said so on stdout. When that fails the process ends: one line, the exit code. */
export async function runDaemon(config: Config, { takeover = false } = {}): Promise<void> {
  preflight(config)
  const host = new DaemonProcess(config)
  try {
    if (takeover) await takeOver(host)
    else await host.daemon.start()
  } catch (error) {
    process.stderr.write(`understudy: ${describe(error)}\n`)
    host.leaver.leave(exitCodeOf(error))
    return
  }
  host.ready()
}
