/** The process of a daemon: the addon, the log, the way out, and the daemon itself, which a takeover may replace. */
import type { Config } from '../core/config-types.js'
import { describe, OperationError } from '../core/errors.js'
import { createLogger } from '../core/log.js'
import { MasterGroup } from '../master/master-group.js'
import { openReign, suspectsOf } from '../master/reign-opening.js'
import { type Addon, addon as loadAddon } from '../native/binding.js'
import { saveVolumes } from '../standby/saved-regions.js'
import { Standby } from '../standby/standby.js'
import { Daemon } from './daemon.js'
import { Leaver } from './leave.js'
import { Predecessor, type PredecessorHost } from './predecessor.js'
import { TakeoverFigures } from '../metrics/takeover-figures.js'

export class DaemonProcess implements PredecessorHost {
  readonly addon = requireAddon()
  readonly log = createLogger('understudy')
  readonly leaver: Leaver
  readonly takeovers = new TakeoverFigures()
  daemon: Daemon
  /** False: another process has what clients hold on to, and gets it back when this one ends. */
  ownsClients = true
  readonly #predecessor: Predecessor

  constructor(config: Config) {
    this.daemon = this.#make(config)
    this.#predecessor = new Predecessor(this)
    this.leaver = new Leaver({
      addon: this.addon,
      log: this.log,
      drain: () => this.#drain(),
      drainMs: () => this.daemon.drainMs(),
      cleanUp: () => {
        if (this.ownsClients) this.daemon.cleanUp()
      },
      reload: () => void this.daemon.reload().catch((error: unknown) => this.log.error(`reload: ${describe(error)}`)),
    })
    this.leaver.install()
  }

  renew(): Daemon {
    this.daemon = this.#make(this.daemon.configuration)
    return this.daemon
  }

  leave(code: number, reason: string): void {
    this.leaver.leave(code, reason)
  }

  /** Everything is open: says so on stdout. */
  ready(): void {
    for (const line of this.daemon.addresses()) process.stdout.write(`understudy: ${line}\n`)
    process.stdout.write(`understudy: ready (state ${this.daemon.configuration.state})\n`)
  }

  async #drain(): Promise<void> {
    await this.#predecessor.settled()
    if (this.ownsClients) await this.daemon.close()
    else await this.daemon.release()
  }

  #make(config: Config): Daemon {
    return new Daemon(config, {
      addon: this.addon,
      log: this.log,
      openMaster: (group, deps) => MasterGroup.open(group, deps),
      openStandby: (standby, deps) =>
        Standby.open(standby, {
          ...deps,
          reigns: {
            open: request => openReign(request, { ...deps, outranked: request.outranked, settled: request.settled }),
            suspects: (group, volumes, fork) => suspectsOf(group, volumes, fork, deps),
          },
        }),
      suspects: (deps, group, volumes, fork) => suspectsOf(group, volumes, fork, deps),
      saveRegions: (folder, volumes) => saveVolumes(folder, volumes, new Date().toISOString()),
      stop: reason => this.leaver.leave(0, reason),
      takeover: request => this.#predecessor.offer(request),
      takeovers: this.takeovers,
    })
  }
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
