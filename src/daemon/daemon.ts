/**
 * One daemon: the roles of one configuration, the doors to them (NBD, metrics, control), and the order in which they
 * open and close.
 *
 * Guarantees: of two daemons on one state directory one is refused; addresses are bound before devices are opened and
 * before any history is written; clients are answered once everything is open. close() lets the masters drain first,
 * then the standby, and keeps status and metrics readable until the end.
 */
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'

import { type Config, defaults, type GroupConfig, type StandbyConfig } from '../core/config-types.js'
import { loadConfig } from '../core/config.js'
import { describe, OperationError, UsageError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { StatusDocument, VolumeStatus } from '../core/status-types.js'
import { formatAddress, formatHostPort, nbdUri, parseAddress } from '../core/units.js'
import { ErrorCounts } from '../metrics/error-counts.js'
import { createMetricsRegistry } from '../metrics/registry.js'
import { type MetricsServer, startMetricsServer } from '../metrics/server.js'
import type { Addon } from '../native/binding.js'
import { CounterReader } from '../native/counters.js'
import { AllowList } from './allow-list.js'
import { controlRoutes } from './control-routes.js'
import type { RotateReply } from './control-protocol.js'
import { ControlServer } from './control-server.js'
import { Copies } from './copies.js'
import { EventHub } from './event-hub.js'
import { type HostIdentity, loadIdentity } from './identity.js'
import { metricsSource } from './metrics-source.js'
import { NbdFront, type OpenListener } from './nbd-front.js'
import { configAfter, planReload } from './reload.js'
import { Promoted } from './promoted.js'
import { RoleChanges, type RoleHost } from './role-changes.js'
import type { ExportedVolume, MasterRole, RoleDeps, StandbyRole } from './roles.js'
import {
  controlSocketPath,
  lockStateDirectory,
  prepareStateDirectory,
  removeNewState,
  type StateLock,
} from './state-directory.js'

export interface DaemonOptions {
  addon: Addon
  log: Logger
  openMaster(config: GroupConfig, deps: RoleDeps & { outranked: (group: MasterRole) => void }): Promise<MasterRole>
  openStandby(
    config: StandbyConfig,
    deps: RoleDeps & { groups: GroupConfig[]; changed: () => void },
  ): Promise<StandbyRole>
  suspects: RoleHost['suspects'] extends (...args: infer A) => infer R ? (deps: RoleDeps, ...args: A) => R : never
  saveRegions(folder: string, volumes: Parameters<RoleHost['saveRegions']>[0]): Promise<string[]>
  /** POST /stop. */
  stop(reason: string): void
}

export class Daemon {
  readonly errors = new ErrorCounts()
  readonly copies: Copies
  readonly promoted: Promoted
  readonly roles: RoleChanges
  private readonly hub: EventHub
  private readonly front: NbdFront
  private readonly masters = new Map<string, MasterRole>()
  /** Not to be served before askStandbys(). */
  private readonly unasked = new Set<MasterRole>()
  /** What NBD clients reach at the listeners of the configuration. */
  private readonly served = new Map<string, ExportedVolume>()
  private readonly listeners = new Map<string, OpenListener>()
  private standbyRole: StandbyRole | undefined
  private allowList: AllowList | undefined
  private lock: StateLock | undefined
  /** What a start that fails takes away again: the first directory that was made for STATE. */
  private newState: string | undefined
  private host: HostIdentity | undefined
  private control: ControlServer | undefined
  private metrics: MetricsServer | undefined
  private starting: Promise<void> | undefined
  /** Reloads run one after the other, and none while leaving. */
  private changing: Promise<unknown> = Promise.resolve()
  private closing = false

  constructor(
    private config: Config,
    readonly options: DaemonOptions,
  ) {
    this.hub = new EventHub(options.log)
    this.hub.subscribe(event => this.errors.observe(event))
    this.front = new NbdFront({
      ...{ addon: options.addon, events: this.hub, log: options.log.area('nbd') },
      connectionsMax: config.nbd.connectionsMax,
    })
    this.copies = new Copies(this.front, config.nbd)
    this.promoted = new Promoted(this.front, config.nbd, options.log.area('promoted'))
    this.roles = new RoleChanges(this.roleHost())
  }

  /** Rejects with what went wrong first; close() is still to be called then. */
  start(): Promise<void> {
    this.starting = this.startInOrder()
    return this.starting
  }

  get id(): string {
    return this.host?.id ?? ''
  }

  get standby(): StandbyRole | undefined {
    return this.standbyRole
  }

  /** Whatever this host is the master of. */
  groups(): MasterRole[] {
    return [...this.masters.values(), ...(this.standbyRole?.masters() ?? [])]
  }

  status(): StatusDocument {
    const volumes: VolumeStatus[] = [...this.masters.values()].flatMap(group => group.status())
    const former = this.host === undefined || this.host.formerId === '' ? {} : { formerId: this.host.formerId }
    const document: StatusDocument = {
      id: this.id,
      ...former,
      volumes: [...volumes, ...(this.standbyRole?.status() ?? [])],
    }
    if (this.allowList === undefined) return document
    return { ...document, allow: this.allowList.ids, revoked: this.allowList.revokedIds }
  }

  /** Where everything is to be found, one line each. */
  addresses(): string[] {
    const lines: string[] = []
    for (const group of this.groups()) {
      for (const { name } of group.exports()) {
        for (const { address } of this.listeners.values())
          lines.push(`export ${name} at ${nbdUri(address, name, this.config.nbd.tls?.required)}`)
      }
    }
    const listen = this.standbyRole?.config.listen
    if (this.standbyRole !== undefined && listen !== undefined) {
      const { host } = listen
      lines.push(`standby ${this.id}@${formatHostPort({ host, port: this.standbyRole.port })}`)
    }
    if (this.metrics !== undefined) lines.push(`metrics at http://${formatHostPort(this.metrics.address)}/metrics`)
    return lines
  }

  /** Kept across restarts. Throws UsageError when this is no standby. */
  allowMaster(id: string): void {
    this.masterList().allow(id)
    this.applyAllowList()
    this.options.log.info(`master ${id} is allowed`)
  }

  /** As above; its sessions end at once. */
  revokeMaster(id: string): void {
    this.masterList().revoke(id)
    this.applyAllowList()
    this.options.log.info(`master ${id} is revoked`)
  }

  /** New sessions use the new key, and peers know this host by either id until `finish`. */
  rotateIdentity(finish: boolean): RotateReply {
    const { host, config, options } = this
    if (host === undefined || this.closing)
      throw new OperationError('LEAVING', 'identity: the daemon is starting or leaving')
    if (finish) host.finish(config.state, options.addon)
    else host.rotate(config.state, options.addon)
    const { id, formerId } = host
    options.log.info(finish ? `identity: ${id} alone from now on` : `identity: rotated from ${formerId} to ${id}`)
    return { id, formerId }
  }

  /** How long close() may take for the drains. */
  drainMs(): number {
    const masters = Math.max(0, ...this.config.groups.map(group => group.drainTimeoutMs))
    return masters + (this.config.standby?.drainTimeoutMs ?? 0)
  }

  /** Reads the file again and applies what can be applied. Returns what was done and what was not. */
  reload(): Promise<string[]> {
    const done = this.changing.then(() => this.reloadNow())
    this.changing = done.catch(() => undefined)
    return done
  }

  /** Drains and closes everything that is open. Rejects when something could not be drained or closed. */
  async close(): Promise<void> {
    this.closing = true
    await this.starting?.catch(() => undefined)
    await this.changing
    this.front.close()
    const failures: unknown[] = []
    const attempt = (part: Promise<unknown>): Promise<unknown> => part.catch((error: unknown) => failures.push(error))
    await attempt(this.copies.close())
    await Promise.all([...this.masters.values()].map(group => attempt(this.closeGroup(group))))
    await attempt(this.closeStandby())
    await attempt(this.metrics?.close() ?? Promise.resolve())
    await attempt(this.control?.close() ?? Promise.resolve())
    this.cleanUp()
    if (this.newState !== undefined) removeNewState(this.config.state, this.newState)
    this.lock?.release()
    this.lock = undefined
    if (failures.length > 0)
      throw new OperationError('CLOSE', failures.map(describe).join('; '), { cause: failures[0] })
  }

  /** Synchronous: what must not stay behind, whatever happens. */
  cleanUp(): void {
    this.front.cleanUp()
    if (this.lock !== undefined) rmSync(controlSocketPath(this.config.state), { force: true })
  }

  private async startInOrder(): Promise<void> {
    const { config, options } = this
    this.newState = prepareStateDirectory(config.state)
    this.lock = lockStateDirectory(config.state)
    options.addon.start(this.hub.emit)
    this.host = loadIdentity(config.state, options.addon)
    for (const address of config.nbd.listen)
      this.listeners.set(formatAddress(address), this.front.listen(address, config.nbd))
    await this.startDoors()
    if (config.standby !== undefined || existsSync(join(config.state, 'store', '.groups'))) await this.needStandby()
    for (const group of config.groups) {
      if (this.closing) throw new OperationError('LEAVING', 'start: stopped before it was complete')
      if (this.standbyRole?.has(group.name) !== true) await this.openMaster(group)
    }
    await this.askStandbys([...this.masters.values()])
    this.front.serve()
    this.newState = undefined
  }

  private async startDoors(): Promise<void> {
    const { config, options } = this
    const registry = createMetricsRegistry(metricsSource(this, new CounterReader(options.addon)))
    if (config.metrics !== undefined)
      this.metrics = await startMetricsServer(config.metrics, registry, options.log.area('metrics'))
    this.control = await ControlServer.open(
      controlSocketPath(config.state),
      controlRoutes(this),
      options.log.area('control'),
    )
  }

  private deps(area: string): RoleDeps {
    if (this.host === undefined) throw new Error('a role is opened before the identity is read')
    const { addon, log } = this.options
    return { addon, events: this.hub, identity: this.host, stateDirectory: this.config.state, log: log.area(area) }
  }

  private async openGroup(config: GroupConfig): Promise<void> {
    await this.askStandbys([await this.openMaster(config)])
  }

  private async openMaster(config: GroupConfig): Promise<MasterRole> {
    const group = await this.options.openMaster(config, {
      ...this.deps('master'),
      outranked: master => this.roles.outranked(master),
    })
    this.unasked.add(group)
    this.masters.set(config.name, group)
    return group
  }

  /** A master that was replaced while it was away must not be written to: the standby is asked before clients are served. */
  private async askStandbys(groups: MasterRole[]): Promise<void> {
    await Promise.all(groups.map(group => group.firstContact()))
    for (const group of groups) this.unasked.delete(group)
    for (const { config, outranked } of groups)
      if (outranked !== undefined)
        this.options.log.error(`group ${config.name}: clients are not served: ${outranked.message}`)
    this.serve()
  }

  /** The store of the configuration; or one of this daemon's own, for groups that it has ceased to be the master of. */
  private async needStandby(): Promise<StandbyRole> {
    if (this.standbyRole !== undefined) return this.standbyRole
    const { state, standby, groups } = this.config
    const own: StandbyConfig = {
      store: join(state, 'store'),
      transport: defaults.standbyTransport,
      allow: [],
      devices: new Map(),
      drainTimeoutMs: defaults.drainTimeoutMs,
    }
    // The list belongs to the door that others come by: without [standby] there is none.
    if (standby !== undefined) this.allowList = new AllowList(state, standby.allow)
    const configured = standby === undefined ? own : { ...standby, allow: this.allowList?.ids ?? [] }
    this.standbyRole = await this.options.openStandby(configured, {
      ...this.deps('standby'),
      groups,
      changed: () => void this.serve(),
    })
    return this.standbyRole
  }

  /** Brings what clients reach in line with what this host is the master of. */
  serve(): string[] {
    const standby = this.standbyRole
    const own = new Set(this.config.groups.map(({ name }) => name))
    const reigning = (standby?.masters() ?? []).filter(({ config }) => own.has(config.name))
    const asked = [...this.masters.values()].filter(group => !this.unasked.has(group))
    const wanted = [...asked, ...reigning].filter(({ outranked }) => outranked === undefined)
    const exported = new Map(wanted.flatMap(group => group.exports()).map(volume => [volume.name, volume]))
    for (const [name, volume] of this.served) {
      // A master that is outranked while it serves goes on: cutting its clients off would not bring the other side back.
      if (exported.has(name) || this.isOpen(volume)) continue
      this.front.remove(name)
      this.served.delete(name)
    }
    for (const [name, volume] of exported) {
      this.front.add(volume)
      this.served.set(name, volume)
    }
    return standby === undefined ? [] : this.promoted.serve(standby)
  }

  private isOpen({ volume }: ExportedVolume): boolean {
    return this.groups().some(group => group.exports().some(exported => exported.volume === volume))
  }

  private roleHost(): RoleHost {
    const { log } = this.options
    return {
      log,
      status: () => this.status().volumes,
      masters: () => [...this.masters.values()],
      standby: () => this.standbyRole,
      needStandby: () => this.needStandby(),
      forget: group => {
        this.masters.delete(group.config.name)
        this.serve()
      },
      openGroup: config => this.openGroup(config),
      serve: () => this.serve(),
      suspects: (group, volumes) => this.options.suspects(this.deps('master'), group, volumes),
      saveRegions: async volumes => this.options.saveRegions((await this.needStandby()).savedDirectory, volumes),
    }
  }

  private async closeGroup(group: MasterRole): Promise<void> {
    const { name, drainTimeoutMs } = group.config
    for (const { name: exported } of group.exports()) {
      this.front.remove(exported)
      this.served.delete(exported)
    }
    const { drained } = await group.close({ drainMs: drainTimeoutMs })
    this.masters.delete(name)
    // What was not drained the group has said itself, with the number of bytes.
    if (drained) this.options.log.info(`group ${name}: closed, drained`)
  }

  private async closeStandby(): Promise<void> {
    if (this.standbyRole === undefined) return
    const { drained } = await this.standbyRole.close({ drainMs: this.standbyRole.config.drainTimeoutMs })
    this.standbyRole = undefined
    if (drained) this.options.log.info('standby: closed, everything received is applied')
    else this.options.log.warn('standby: closed before everything was applied; the rest is in its log')
  }

  private async reloadNow(): Promise<string[]> {
    const { config } = this
    if (this.closing) throw new OperationError('LEAVING', 'reload: the daemon is being stopped')
    if (config.file === undefined)
      throw new OperationError('NO_FILE', 'reload: this daemon was started from flags, there is no file to read again')
    const wanted = loadConfig(config.file)
    const plan = planReload(config, wanted)
    const messages = [...plan.needRestart]
    const apply = async (what: string, change: () => Promise<void> | void, otherwise = ''): Promise<void> => {
      try {
        await change()
        messages.push(what)
      } catch (error) {
        messages.push(`failed: ${what}: ${describe(error)}${otherwise === '' ? '' : `; ${otherwise}`}`)
      }
    }
    for (const name of plan.removeGroups) {
      const group = this.masters.get(name)
      if (group !== undefined) await apply(`group '${name}' closed`, () => this.closeGroup(group))
    }
    for (const address of plan.removeListeners)
      await apply(`no longer listening on ${formatAddress(address)}`, () => this.unlisten(formatAddress(address)))
    for (const address of plan.addListeners) {
      await apply(`listening on ${formatAddress(address)}`, () => {
        this.listeners.set(formatAddress(address), this.front.listen(address, config.nbd))
      })
    }
    for (const group of plan.addGroups) await apply(`group '${group.name}' opened`, () => this.openGroup(group))
    if (config.nbd.tls !== undefined)
      await apply('TLS files read again', () => this.front.readTlsAgain(), 'the old ones stay in force')
    const { allow } = plan
    if (allow !== undefined) await apply(`${allow.length} masters listed in allow`, () => this.listMasters(allow))
    const listening = [...this.listeners.keys()].map(parseAddress)
    this.config = configAfter(
      config,
      wanted,
      [
        ...[...this.masters.values()].map(group => group.config),
        ...config.groups.filter(({ name }) => this.standbyRole?.has(name) === true),
      ],
      listening,
    )
    for (const message of messages) this.options.log.info(`reload: ${message}`)
    return messages.length === 0 ? ['nothing has changed'] : messages
  }

  private listMasters(ids: string[]): void {
    this.allowList?.configure(ids)
    this.applyAllowList()
  }

  private masterList(): AllowList {
    if (this.allowList === undefined) throw new UsageError('this daemon is no standby: it hears no master')
    return this.allowList
  }

  private applyAllowList(): void {
    this.standbyRole?.setAllow(this.masterList().ids)
  }

  private unlisten(address: string): void {
    this.listeners.get(address)?.close()
    this.listeners.delete(address)
  }
}
