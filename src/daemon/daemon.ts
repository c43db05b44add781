/**
 * One daemon: the roles of one configuration, the doors to them (NBD, metrics, control), and the order in which they
 * open and close.
 *
 * Guarantees: of two daemons on one state directory one is refused; addresses are bound before devices are opened and
 * before any history is written; clients are answered once everything is open. close() lets the masters drain first,
 * then the standby, and keeps status and metrics readable until the end.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'

import { systemClock } from '../core/clock.js'
import { type Config, defaults, type GroupConfig, type NbdConfig, type StandbyConfig } from '../core/config-types.js'
import { loadConfig } from '../core/config.js'
import { describe, OperationError, UsageError } from '../core/errors.js'
import type { Hand, Handed } from '../core/handed.js'
import type { StatusDocument, VolumeStatus } from '../core/status-types.js'
import { formatAddress, parseAddress } from '../core/units.js'
import { ErrorCounts } from '../metrics/error-counts.js'
import { Machines } from '../recovery/machines.js'
import { Residency } from '../recovery/residency.js'
import { addressesOf } from './addresses.js'
import { AllowList } from './allow-list.js'
import { Attachments } from './attachments.js'
import { type FilterOutcome, type FilterWish, setFilter, wantedFilter } from '../filter/filter-change.js'
import type { RotateReply } from './control-protocol.js'
import { Copies } from './copies.js'
import type { DaemonOptions } from './daemon-options.js'
import { Doors } from './doors.js'
import { adoptClients, closeEstate, type Estate, handOverDrainMs, takeClients, untilReleased } from './estate.js'
import { drillEvent, EventCommand } from './event-command.js'
import { EventHub } from './event-hub.js'
import { type HostIdentity, loadIdentity } from './identity.js'
import { NbdFront, type OpenListener } from './nbd-front.js'
import { carryOut, configAfter, planReload } from './reload.js'
import { Promoted } from './promoted.js'
import { Recovery } from '../recovery/recovery.js'
import { RoleChanges, type RoleHost } from './role-changes.js'
import type { ExportedVolume, MasterRole, RoleDeps, StandbyRole } from './roles.js'
import {
  inheritLock,
  lockStateDirectory,
  prepareStateDirectory,
  removeNewState,
  type StateLock,
} from './state-directory.js'

/** `hand`: another process goes on at once. */
interface HandOverClose {
  drainMs: number
  hand?: Hand
}

export class Daemon {
  readonly errors = new ErrorCounts()
  readonly copies: Copies
  readonly promoted: Promoted
  readonly roles: RoleChanges
  readonly attachments: Attachments
  readonly machines = new Machines(() => this.standbyRole?.copiedGroups() ?? [])
  readonly recovery: Recovery
  private readonly hub: EventHub
  readonly front: NbdFront
  private readonly masters = new Map<string, MasterRole>()
  /** Not to be served before askStandbys(). */
  private readonly unasked = new Set<MasterRole>()
  /** What NBD clients reach at the listeners of the configuration. */
  private readonly served = new Map<string, ExportedVolume>()
  private readonly listeners = new Map<string, OpenListener>()
  private standbyRole: StandbyRole | undefined
  private images: Residency | undefined
  private eventCommand: EventCommand | undefined
  private allowList: AllowList | undefined
  private lock: StateLock | undefined
  /** What a start that fails takes away again: the first directory that was made for STATE. */
  private newState: string | undefined
  private host: HostIdentity | undefined
  private readonly doors = new Doors()
  private starting: Promise<void> | undefined
  /** From a daemon that this one goes on for. */
  private heldLeases: ReadonlyMap<string, bigint> = new Map()
  /** What a daemon before this one has left of machines. */
  private carryingOn: Promise<unknown> = Promise.resolve()
  /** Reloads and changes of filters run one after the other, and none while leaving. */
  private changing: Promise<unknown> = Promise.resolve()
  private closing = false
  /** What a predecessor had, until this daemon is in force. */
  private handedOver: Estate['handed'] = []

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
    this.attachments = new Attachments(config.state, {
      ...{ addon: options.addon, events: this.hub, log: options.log.area('attach') },
      served: name => this.served.get(name) ?? this.promotedVolume(name),
    })
    this.recovery = new Recovery(
      {
        ...{ log: options.log.area('vm'), clock: systemClock },
        machines: this.machines,
        copies: () => this.needCopies(),
        hold: volume => this.residency?.hold(volume) ?? ((): undefined => undefined),
        listen: (path, volumes) => this.front.listen({ kind: 'unix', path }, this.machineNbd(), volumes),
        serve: () => this.serve(),
        drilled: (machine, result) => this.eventCommand?.tell(drillEvent(machine, result)),
      },
      () => this.standbyRole?.copiedGroups() ?? [],
    )
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

  /** What of the standby's copies is in memory; undefined: it is no standby. */
  get residency(): Residency | undefined {
    return this.images
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
      volumes: [...volumes, ...(this.standbyRole?.status() ?? []).map(status => this.withResidency(status))],
    }
    const attachments = this.attachments.list()
    if (attachments.length > 0) document.attachments = attachments
    if (this.allowList === undefined) return document
    return { ...document, allow: this.allowList.ids, revoked: this.allowList.revokedIds }
  }

  private withResidency(status: VolumeStatus): VolumeStatus {
    const residency = this.images?.of(status.name)
    return residency === undefined ? status : { ...status, residency }
  }

  /** Where everything is to be found, one line each. */
  addresses(): string[] {
    const listening = [...this.listeners.values()].map(({ address }) => address)
    return addressesOf(this, listening, this.doors.metricsAddress)
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
    return this.inTurn(() => this.reloadNow())
  }

  /** Until the next start or reload; the file is not written. */
  changeFilter(group: MasterRole, name: string, wish: FilterWish, dryRun: boolean): Promise<FilterOutcome> {
    return this.inTurn(async () => {
      const volume = group.config.volumes.find(one => one.name === name)
      if (volume === undefined || this.closing)
        throw new OperationError('LEAVING', `filter: volume '${name}' is being closed`)
      return group.changeFilter(name, wantedFilter(volume, wish), dryRun)
    })
  }

  private inTurn<T>(change: () => Promise<T>): Promise<T> {
    const done = this.changing.then(change)
    this.changing = done.catch(() => undefined)
    return done
  }

  /** Drains and closes everything that is open. Rejects when something could not be drained or closed. */
  async close(): Promise<void> {
    this.closing = true
    this.attachments.stop()
    this.eventCommand?.stop()
    await this.starting?.catch(() => undefined)
    await this.changing
    await this.carryingOn
    await this.recovery.close('the daemon is stopping')
    this.front.close()
    const failures: unknown[] = []
    const attempt = (part: Promise<unknown>): Promise<unknown> => part.catch((error: unknown) => failures.push(error))
    await attempt(this.copies.close())
    await Promise.all([...this.masters.values()].map(group => attempt(this.closeGroup(group))))
    await attempt(this.closeStandby())
    await attempt(this.doors.close())
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
    this.doors.cleanUp(this.config)
  }

  get configuration(): Config {
    return this.config
  }

  get isServing(): boolean {
    return this.front.isServing && !this.closing
  }

  /** Opens, on what a predecessor has handed over, what it has closed. Nobody is answered before adopt(). */
  take(estate: Estate): Promise<void> {
    this.handedOver = estate.handed
    this.attachments.prepare(estate.clients.flatMap(({ attached }) => attached ?? []))
    this.options.addon.pauseListeners(true)
    this.lock = inheritLock(estate.lock)
    this.front.inherit(estate.listeners)
    this.starting = this.openInOrder(estate).then(() => {
      this.unasked.clear() // They were in force a moment ago; clients do not wait for an answer of the standby.
      this.serve()
    })
    return this.starting
  }

  /** The predecessor is no more: its clients are answered from here on. */
  async adopt(estate: Estate): Promise<void> {
    const groups = this.groups()
    adoptClients(this.front, groups, estate.clients, (index, connection) => this.attachments.inherit(index, connection))
    this.handedOver = []
    closeEstate({ handed: estate.handed })
    for (const group of groups) group.begin() // waits for disks, and clients for nothing any more
    this.attachments.sync()
    this.front.serve()
    this.options.addon.pauseListeners(false)
    await this.doors.open(this, this.config, this.options.log, estate.doors)
    this.carryingOn = this.recovery.carryOn()
    this.tellEvents()
  }

  /**
   * The other half: closes all but what goes to a successor, or back to a daemon of this process. Its clients are quiet.
   * Its devices have been flushed. Rejects with nothing changed; what could not be closed well is logged, and as after a
   * crash for whoever is next.
   */
  async release(): Promise<Estate> {
    const { addon, log } = this.options
    const clients = this.attachments.among(await takeClients(addon, this.groups()))
    this.closing = true
    this.attachments.stop()
    await this.carryingOn
    await this.recovery.close('another daemon goes on in place of this one')
    this.eventCommand?.stop()
    const doors = await this.doors.giveUp()
    const listeners = this.front.giveUp()
    const port = this.standbyRole?.port
    const leases = new Map(
      this.groups().flatMap(({ config, leaseUntilNs }) =>
        leaseUntilNs === undefined ? [] : [[config.name, leaseUntilNs] as const],
      ),
    )
    const attempt = (part: Promise<unknown>): Promise<unknown> =>
      part.catch((error: unknown) => log.error(describe(error)))
    const handed: Estate['handed'] = []
    const how: HandOverClose = {
      drainMs: handOverDrainMs,
      hand: (group, entry) => void handed.push({ group, ...entry }),
    }
    const masters = [...this.masters.values()].map(group => attempt(this.closeGroup(group, how)))
    await Promise.all([...masters, attempt(this.closeStandby(how))])
    return { clients, listeners, lock: this.lock?.fd ?? -1, doors, standbyPort: port, leases, handed }
  }

  /** After take() that is not to be, whether it has ended or not: nothing is open, nor was anything changed. */
  async abandon(): Promise<void> {
    this.closing = true
    await this.starting?.catch(() => undefined)
    closeEstate(await this.release())
  }

  private async startInOrder(): Promise<void> {
    this.attachments.prepare()
    this.newState = prepareStateDirectory(this.config.state)
    this.lock = lockStateDirectory(this.config.state)
    await this.openInOrder()
    await this.askStandbys([...this.masters.values()])
    this.front.serve()
    this.newState = undefined
    this.carryingOn = this.recovery.carryOn()
    this.tellEvents()
  }

  private async openInOrder(estate?: Estate): Promise<void> {
    const { config, options } = this
    this.heldLeases = estate?.leases ?? new Map()
    options.addon.start(this.hub.emit)
    this.host = loadIdentity(config.state, options.addon)
    for (const address of config.nbd.listen)
      this.listeners.set(formatAddress(address), this.front.listen(address, config.nbd))
    if (estate === undefined) await this.doors.open(this, config, options.log)
    const step = <T>(open: () => Promise<T>): Promise<T> =>
      estate === undefined ? open() : untilReleased(open, () => !this.closing)
    if (config.standby !== undefined || existsSync(join(config.state, 'store', '.groups')))
      await step(() => this.needStandby(estate?.standbyPort))
    for (const group of config.groups) {
      if (this.closing) throw new OperationError('LEAVING', 'start: stopped before it was complete')
      if (this.standbyRole?.has(group.name) !== true) await step(() => this.openMaster(group))
    }
    this.heldLeases = new Map() // Whatever is opened later begins anew.
  }

  private tellEvents(): void {
    const { onEvent: command } = this.config
    if (command === undefined || this.closing) return
    const log = this.options.log.area('event')
    this.eventCommand = new EventCommand({ command, log, clock: systemClock, status: () => this.status().volumes })
  }

  private deps(area: string): RoleDeps {
    if (this.host === undefined) throw new Error('a role is opened before the identity is read')
    const { addon, log } = this.options
    const { hub, host, config, heldLeases } = this
    const handed = (group: string): Handed | undefined => this.handedOver.find(entry => entry.group === group)
    return { addon, events: hub, identity: host, stateDirectory: config.state, log: log.area(area), heldLeases, handed }
  }

  private async openGroup(config: GroupConfig): Promise<void> {
    await this.askStandbys([await this.openMaster(config)])
  }

  private async openMaster(config: GroupConfig): Promise<MasterRole> {
    const group = await this.options.openMaster(config, {
      ...this.deps('master'),
      outranked: master => this.roles.outranked(master),
      settled: () => void this.serve(),
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
  private async needStandby(port?: number): Promise<StandbyRole> {
    if (this.standbyRole !== undefined) return this.standbyRole
    const { state, standby, groups } = this.config
    const own: StandbyConfig = {
      store: join(state, 'store'),
      transport: defaults.standbyTransport,
      allow: [],
      devices: new Map(),
      stagingBytes: 0,
      cacheBytes: 0,
      drainTimeoutMs: defaults.drainTimeoutMs,
    }
    // The list belongs to the door that others come by: without [standby] there is none.
    if (standby !== undefined) this.allowList = new AllowList(state, standby.allow)
    const configured = standby === undefined ? own : { ...standby, allow: this.allowList?.ids ?? [] }
    if (configured.listen !== undefined && port !== undefined) configured.listen = { ...configured.listen, port }
    this.standbyRole = await this.options.openStandby(configured, {
      ...this.deps('standby'),
      groups,
      changed: () => void this.serve(),
      used: volume => this.images?.use(volume),
    })
    const { addon, log } = this.options
    this.images = new Residency({
      ...{ addon, log: log.area('cache'), clock: systemClock, cacheBytes: configured.cacheBytes },
      images: () => this.standbyRole?.images() ?? [],
    })
    this.machines.renew(error => this.options.log.warn(describe(error)))
    return this.standbyRole
  }

  /** Brings what clients reach in line with what this host is the master of. */
  serve(): string[] {
    const standby = this.standbyRole
    const own = new Set(this.config.groups.map(({ name }) => name))
    const reigning = (standby?.masters() ?? []).filter(({ config }) => own.has(config.name))
    const asked = [...this.masters.values()].filter(group => !this.unasked.has(group))
    const wanted = [...asked, ...reigning].filter(({ outranked, isOwed }) => outranked === undefined && !isOwed)
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
    const lines = standby === undefined ? [] : this.promoted.serve(standby)
    this.recovery.serve()
    this.attachments.sync()
    return lines
  }

  private needCopies(): StandbyRole {
    if (this.standbyRole === undefined) throw new OperationError('NO_MACHINE', 'vm: this host keeps no copies')
    return this.standbyRole
  }

  /** QEMU of this host and this user; plain. */
  private machineNbd(): NbdConfig {
    const { tls: _tls, unixGroup: _group, ...nbd } = this.config.nbd
    return { ...nbd, unixMode: 0o600 }
  }

  private promotedVolume(name: string): ExportedVolume | undefined {
    return this.standbyRole?.promoted().find(({ exported }) => exported.name === name)?.exported
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
      suspects: (group, volumes, fork) => this.options.suspects(this.deps('master'), group, volumes, fork),
      saveRegions: async volumes => this.options.saveRegions((await this.needStandby()).savedDirectory, volumes),
    }
  }

  private async closeGroup(
    group: MasterRole,
    how: HandOverClose = { drainMs: group.config.drainTimeoutMs },
  ): Promise<void> {
    const { name } = group.config
    for (const { name: exported } of group.exports()) {
      this.front.remove(exported)
      this.served.delete(exported)
    }
    const { drained } = await group.close(how)
    this.masters.delete(name)
    // What was not drained the group has said itself, with the number of bytes.
    if (drained) this.options.log.info(`group ${name}: closed, drained`)
  }

  private async closeStandby(
    how: HandOverClose = { drainMs: this.standbyRole?.config.drainTimeoutMs ?? 0 },
  ): Promise<void> {
    if (this.standbyRole === undefined) return
    await this.images?.stop()
    this.images = undefined
    const { drained } = await this.standbyRole.close(how)
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
    const messages = await carryOut(planReload(config, wanted), {
      closeGroup: name => {
        const group = this.masters.get(name)
        return group && this.closeGroup(group)
      },
      openGroup: group => this.openGroup(group),
      listen: address => this.listeners.set(formatAddress(address), this.front.listen(address, config.nbd)),
      unlisten: address => this.unlisten(formatAddress(address)),
      allow: ids => this.listMasters(ids),
      setStaging: bytes => this.standbyRole?.setStaging(bytes),
      changeFilter: async ({ group, volume, filter }) => {
        const master = this.groups().find(one => one.config.name === group)
        if (master !== undefined) return void (await master.changeFilter(volume, filter))
        // It counts when this host is their master again.
        for (const one of config.groups.find(({ name }) => name === group)?.volumes ?? [])
          if (one.name === volume) setFilter(one, filter)
      },
      ...(config.nbd.tls === undefined ? {} : { readTlsAgain: () => this.front.readTlsAgain() }),
    })
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
