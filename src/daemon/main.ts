/** Runs a daemon in this process until it leaves. */
import type { Config } from '../core/config-types.js'
import { describe, exitCodeOf, OperationError } from '../core/errors.js'
import { createLogger } from '../core/log.js'
import { MasterGroup } from '../master/master-group.js'
import { type Addon, addon as loadAddon } from '../native/binding.js'
import { openReign, suspectsOf } from '../master/reign-opening.js'
import { saveVolumes } from '../standby/saved-regions.js'
import { Standby } from '../standby/standby.js'
import { Daemon } from './daemon.js'
import { Leaver } from './leave.js'
import { preflight } from './preflight.js'

/** Resolves when everything is open and said so on stdout. When that fails the process ends: one line, the exit code. */
export async function runDaemon(config: Config): Promise<void> {
  preflight(config)
  const addon = requireAddon()
  const log = createLogger('understudy')
  const daemon = new Daemon(config, {
    addon,
    log,
    openMaster: (group, deps) => MasterGroup.open(group, deps),
    openStandby: (standby, deps) =>
      Standby.open(standby, {
        ...deps,
        reigns: {
          open: request => openReign(request, { ...deps, outranked: request.outranked }),
          suspects: (group, volumes) => suspectsOf(group, volumes, deps),
        },
      }),
    suspects: (deps, group, volumes) => suspectsOf(group, volumes, deps),
    saveRegions: (folder, volumes) => saveVolumes(folder, volumes, new Date().toISOString()),
    stop: reason => leaver.leave(0, reason),
  })
  const leaver = new Leaver({
    addon,
    log,
    drain: () => daemon.close(),
    drainMs: () => daemon.drainMs(),
    cleanUp: () => daemon.cleanUp(),
    reload: () => void daemon.reload().catch((error: unknown) => log.error(`reload: ${describe(error)}`)),
  })
  leaver.install()
  try {
    await daemon.start()
  } catch (error) {
    process.stderr.write(`understudy: ${describe(error)}\n`)
    leaver.leave(exitCodeOf(error))
    return
  }
  for (const line of daemon.addresses()) process.stdout.write(`understudy: ${line}\n`)
  process.stdout.write(`understudy: ready (state ${config.state})\n`)
}

function requireAddon(): Addon {
  try {
    return loadAddon()
  } catch (error) {
    throw new OperationError(
      'NO_ADDON',
      `the native half is not built for this node (${describe(error)}); run scripts/setup`,
      { cause: error },
    )
  }
}
