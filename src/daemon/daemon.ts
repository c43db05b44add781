/**
 * One daemon: the roles of one configuration, the doors to them (NBD, metrics, control), and the order in which they
 * open and close.
 *
 * Guarantees: of two daemons on one state directory one is refused; addresses are bound before devices are opened and
 * before any history is written; clients are answered once everything is open. close() lets the masters drain first,
 * then the standby, and keeps status and metrics readable until the end.
 */
import { rmSync } from 'node:fs'

import type { Config, GroupConfig, StandbyConfig } from '../core/config-types.js'
import { loadConfig } from '../core/config.js'
import { describe, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { StatusDocument, VolumeStatus } from '../core/status-types.js'
import { formatAddress, formatHostPort, nbdUri, parseAddress } from '../core/units.js'
import { ErrorCounts } from '../metrics/error-counts.js'
import { createMetricsRegistry } from '../metrics/registry.js'
import { type MetricsServer, startMetricsServer } from '../metrics/server.js'
import type { Addon } from '../native/binding.js'
import { CounterReader } from '../native/counters.js'
import { controlRoutes } from './control-routes.js'
import { ControlServer } from './control-server.js'
import { Copies } from './copies.js'
import { EventHub } from './event-hub.js'
import { type HostIdentity, loadIdentity } from './identity.js'
import { metricsSource } from './metrics-source.js'
import { NbdFront, type OpenListener } from './nbd-front.js'
import { configAfter, planReload } from './reload.js'
import { Promoted } from './promoted.js'
import type { MasterRole, RoleDeps, StandbyRole } from './roles.js'
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
  openMaster(config: GroupConfig, deps: RoleDeps): Promise<MasterRole>
  openStandby(config: StandbyConfig, deps: RoleDeps): Promise<StandbyRole>
  /** POST /stop. */
  stop(reason: string): void
}

export class Daemon {
  readonly errors = new ErrorCounts()
  readonly copies: Copies
  readonly promoted: Promoted
  private readonly hub: EventHub
  private readonly front: NbdFront
  private readonly masters = new Map<string, MasterRole>()
  private readonly listeners = new Map<string, OpenListener>()
  private standbyRole: StandbyRole | undefined
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

  groups(): MasterRole[] {
    return [...this.masters.values()]
  }

  status(): StatusDocument {
    const volumes: VolumeStatus[] = this.groups().flatMap(group => group.status())
    return { volumes: [...volumes, ...(this.standbyRole?.status() ?? [])] }
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
    if (this.standbyRole !== undefined) {
      const { host } = this.standbyRole.config.listen
      lines.push(`standby ${this.id}@${formatHostPort({ host, port: this.standbyRole.port })}`)
    }
    if (this.metrics !== undefined) lines.push(`metrics at http://${formatHostPort(this.metrics.address)}/metrics`)
    return lines
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
    await Promise.all(this.groups().map(group => attempt(this.closeGroup(group))))
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
    if (config.standby !== undefined) this.standbyRole = await options.openStandby(config.standby, this.deps('standby'))
    for (const group of config.groups) {
      if (this.closing) throw new OperationError('LEAVING', 'start: stopped before it was complete')
      await this.openGroup(group)
    }
    if (this.standbyRole !== undefined) this.promoted.serve(this.standbyRole)
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
    const group = await this.options.openMaster(config, this.deps('master'))
    this.masters.set(config.name, group)
    for (const exported of group.exports()) this.front.add(exported)
  }

  private async closeGroup(group: MasterRole): Promise<void> {
    const { name, drainTimeoutMs } = group.config
    for (const exported of group.exports()) this.front.remove(exported.name)
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
    const apply = async (what: string, change: () => Promise<void> | void): Promise<void> => {
      try {
        await change()
        messages.push(what)
      } catch (error) {
        messages.push(`failed: ${what}: ${describe(error)}`)
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
    if (config.nbd.tls !== undefined) await apply('TLS files read again', () => this.front.readTlsAgain())
    const { allow } = plan
    if (allow !== undefined) await apply(`${allow.length} masters allowed`, () => this.standbyRole?.setAllow(allow))
    const listening = [...this.listeners.keys()].map(parseAddress)
    this.config = configAfter(
      config,
      wanted,
      this.groups().map(group => group.config),
      listening,
    )
    for (const message of messages) this.options.log.info(`reload: ${message}`)
    return messages.length === 0 ? ['nothing has changed'] : messages
  }

  private unlisten(address: string): void {
    this.listeners.get(address)?.close()
    this.listeners.delete(address)
  }
}
