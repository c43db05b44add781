/** What a daemon is given: the native half, the log, how to open the roles, and what only its process can do. */
import type { GroupConfig, StandbyConfig } from '../core/config-types.js'
import type { Logger } from '../core/log.js'
import type { Addon } from '../native/binding.js'
import type { RoleHost } from './role-changes.js'
import type { MasterRole, RoleDeps, StandbyRole } from './roles.js'
import type { TakeoverFigures } from '../metrics/takeover-figures.js'
import type { TakeoverReply, TakeoverRequest } from './takeover-request.js'

export interface DaemonOptions {
  addon: Addon
  log: Logger
  openMaster(
    config: GroupConfig,
    deps: RoleDeps & { outranked: (group: MasterRole) => void; settled: () => void },
  ): Promise<MasterRole>
  openStandby(
    config: StandbyConfig,
    deps: RoleDeps & { groups: GroupConfig[]; changed: () => void; used: (volume: string) => void },
  ): Promise<StandbyRole>
  suspects: RoleHost['suspects'] extends (...args: infer A) => infer R ? (deps: RoleDeps, ...args: A) => R : never
  saveRegions(folder: string, volumes: Parameters<RoleHost['saveRegions']>[0]): Promise<string[]>
  /** POST /stop. */
  stop(reason: string): void
  /** POST /takeover: another process wants to go on in place of this one. */
  takeover(request: TakeoverRequest): TakeoverReply
  takeovers: TakeoverFigures
}
