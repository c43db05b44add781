/**
 * MasterGroup: one group in the role of master: its volumes in the engine, its session to the standby, its files.
 *
 * Guarantees: before the first client is served, STATE/groups/NAME.json says that this incarnation runs; the engine is
 * told that its dirty map holds for a standby only when attach-decision.ts finds that it does (G4, G5); close() leaves
 * a file that the next start may rely on, or none. A refused open() leaves STATE as it was.
 * Does not: move bytes (the engine does), or serve NBD (nbd/ does, with exports()).
 */
import { writeJson } from '../core/atomic-file.js'
import { bootId } from '../core/boot-id.js'
import { type Clock, sleep, systemClock } from '../core/clock.js'
import type { Compression, FilterConfig, GroupConfig } from '../core/config-types.js'
import { describe, OperationError, SafetyRefusal, UsageError } from '../core/errors.js'
import type { Hand, Handed } from '../core/handed.js'
import type { Logger } from '../core/log.js'
import type { Position, Reign } from '../core/reigns.js'
import type { VolumeStatus } from '../core/status-types.js'
import { formatSize } from '../core/units.js'
import type { FilterExplanation } from '../filter/compile-files.js'
import type { FileRule } from '../filter/file-rules.js'
import type { FilterOutcome } from '../filter/filter-change.js'
import { filterStatus } from '../filter/filter-status.js'
import type { CompiledFilter, Installed } from '../filter/follow.js'
import type { Addon, AddonEvent, OpenedGroup } from '../native/binding.js'
import { CounterReader, type Counters } from '../native/counters.js'
import type { EventSource } from '../native/events.js'
import {
  decodeSuspects,
  encodeAbdicate,
  type Hello,
  type Refused,
  type Suspects,
  type Welcome,
} from '../transport/messages.js'
import { openTransport } from '../transport/open-transport.js'
import type { HostKey, Session, SessionHandler, Transport } from '../transport/transport.js'
import { type AttachFacts, decideAttach, knownAfterAttach, knownAtStop, type KnownCopy } from './attach-decision.js'
import { flushDevice, saveVolume, waitDrained, withChangeMarks } from './clean-stop.js'
import { compressionOf } from './compression.js'
import { changeFilter } from './change-filter.js'
import { explainFilter } from './filter-explanation.js'
import { GiveBack } from './give-back.js'
import { type CleanStop, dirtyMapPath, encodeGroup, groupPath, type GroupRecord } from './group-file.js'
import {
  carriedSince,
  excludedOf,
  fixedOf,
  knownAtOpen,
  liveAtOpen,
  makeFolder,
  openNative,
  persist,
  restore,
} from './group-opening.js'
import { GroupProgress, groupState, type GroupState, type LinkFacts, marksOf, withReason } from './group-progress.js'
import { type PreparedGroup, prepareGroup, type Seed } from './group-preparation.js'
import { encodeHanded } from './handed-group.js'
import { HeldLease } from './held-lease.js'
import { helloOf } from './hello.js'
import { LagPause } from './lag-pause.js'
import { inForce, LeftOut } from './left-out.js'
import { MapTrust } from './map-trust.js'
import { markNow, Marks } from './marks.js'
import { masterVolumeStatus } from './master-status.js'
import { type ExportedVolume, exportOf, noteUnreadable, openVolumes, type OpenVolume } from './open-volumes.js'
import { SessionKeeper } from './session-keeper.js'
import { awayWords, whyDetached } from './standby-loss.js'
import { Verification } from './verification.js'
import type { VerifyReport, VerifyRequest } from './verify-run.js'
import type { VolumeIdentity } from './volume-file.js'

export interface MasterDeps {
  addon: Addon
  events: EventSource
  identity: HostKey & { readonly id: string }
  stateDirectory: string
  log: Logger
  clock?: Clock
  random?: () => number
  /** By group: until when this host holds a lease already. */
  heldLeases?: ReadonlyMap<string, bigint>
  /** Instead of QUIC. */
  transport?: Transport
  /** The peer reigns: see MasterGroup.outranked. */
  outranked?: (group: MasterGroup) => void
  /** What another process had until now; such a group changes nothing on disk before begin(). */
  handed?: (group: string) => Handed | undefined
  /** The standby has given back what this host had lost: see MasterGroup.isOwed. */
  settled?: () => void
  /** Of the host's kernel. */
  bootId?: string
}

export interface CloseOutcome {
  drained: boolean
  dirtyBytes: number
  /** Of an abdication: the standby has said that it knows. */
  noted?: boolean
}

export interface CloseOptions {
  drainMs: number
  /** Once everything is on the standby: this side ceases to be the master. Not carried out when it could not drain. */
  abdicate?: { persist: (position: Position) => void; takeOver: boolean }
  /**
   * Another process goes on at once, with what is passed here; the devices have been flushed, and nothing is written.
   * Not called when something failed: it is a crash for the other one.
   */
  hand?: Hand
}

const sampleMs = 200
/** An idle group is looked at that much more rarely: a host may have many. */
const idleTicks = 5
const notedMs = 5_000
const beginAgainMs = 1_000
/**
 * A start waits so long for a sign of the standby; and so long for its answer, once there was one. A tunnel takes longer
 * to be there, and is known to fail at once when nobody listens.
 */
const silentMs = { quic: 700, webtransport: 3_000 }
const answerMs = 3_000
/** And so long for what it gives back, so that clients who come back at once find their volume. */
const givenBackMs = 10_000
const suspectsMax = 256

export class MasterGroup {
  readonly config: GroupConfig
  readonly counterPage: number
  readonly leftOut: LeftOut
  readonly #deps: MasterDeps
  readonly #log: Logger
  readonly #clock: Clock
  readonly #counters: CounterReader
  readonly #group: number
  readonly #volumes: OpenVolume[]
  /** The engine keeps the maps on disk. */
  readonly #mapsStored: boolean
  readonly #record: GroupRecord
  readonly #progress: GroupProgress
  readonly #verification: Verification
  readonly #cleanAtOpen: Position | undefined
  readonly #trust: MapTrust
  readonly #giveBack: GiveBack
  readonly #lagPause = new LagPause()
  readonly #lease: HeldLease
  readonly #marks: Marks
  readonly #transport: Transport | undefined
  readonly #keeper: SessionKeeper | undefined
  readonly #unsubscribe: () => void
  readonly #stopSampling: () => void
  #known: KnownCopy | undefined
  /** The most the standby ever acknowledged as durable in this incarnation. */
  #durable = 0n
  #attached = false
  #compress: Compression = 'off'
  #outranked: Refused | undefined
  /** The peer's reign that the operator has decided against. */
  #discard = ''
  #suspects: Suspects[] = []
  #noted: () => void = () => undefined
  /** There was a session in this run. */
  #met = false
  /** Its files are still to be written. */
  #prepared: PreparedGroup | undefined
  /** The predecessor's files count as long as it may go on. */
  #waitsForBegin = false
  #closing: Promise<CloseOutcome> | undefined

  /**
   * Throws, having changed nothing, when a device or a file is not what it should be. With `seed` writes wait for letWrite(),
   * and nothing is on disk before putOnDisk().
   */
  static async open(config: GroupConfig, deps: MasterDeps, seed?: Seed): Promise<MasterGroup> {
    const log = deps.log.area(`group ${config.name}`)
    let opened: MasterGroup | undefined
    const preparation = {
      addon: deps.addon,
      state: deps.stateDirectory,
      bootId: deps.bootId ?? bootId(),
      log,
      engine: {
        isWritten: (index: number): boolean => opened?.leftOut.isWritten(index) === true,
        watchRanges: (index: number, watched: BigUint64Array): Promise<number> =>
          opened?.leftOut.watchRanges(index, watched) ?? Promise.resolve(0),
        setRanges: async (index: number, compiled: CompiledFilter, mark: number): Promise<Installed> =>
          (await opened?.leftOut.setRanges(index, compiled, mark)) ?? inForce,
      },
    }
    const prepared = await prepareGroup(config, preparation, seed, deps.handed?.(config.name))
    const { history, before } = prepared
    const record: GroupRecord = {
      incarnation: prepared.incarnation,
      generation: history.at(-1)?.id ?? '',
      history,
      ...(before?.pausedSince === undefined ? {} : { pausedSince: before.pausedSince }),
      ...(seed?.isOnlyCopy === true || before?.leaseWaived === true ? { leaseWaived: true as const } : {}),
      excluded: excludedOf(prepared),
      ...fixedOf(prepared),
      ...(before?.basis === undefined ? {} : { basis: before.basis }),
      // A predecessor of this host has flushed its devices.
      ...(before?.paired === undefined || prepared.handed !== undefined ? {} : { paired: before.paired }),
      ...liveAtOpen(prepared),
    }
    if (prepared.handed !== undefined) {
      const native = openNative(config, deps, prepared, record.leaseWaived === true, seed)
      opened = new MasterGroup(config, deps, log, prepared, record, native, seed)
      opened.#waitsForBegin = true
      return opened
    }
    if (seed === undefined) persist(config, deps.stateDirectory, prepared, record)
    else makeFolder(deps.stateDirectory)
    try {
      const native = openNative(config, deps, prepared, record.leaseWaived === true, seed)
      opened = new MasterGroup(config, deps, log, prepared, record, native, seed)
      await opened.#giveBack.open(
        config.standby === undefined
          ? 'no standby is configured any more'
          : opened.#known === undefined
            ? 'the dirty map that tells where cannot be believed'
            : '',
      )
      opened.#begin(seed !== undefined)
      opened.#prepared = seed && prepared
      return opened
    } catch (error) {
      if (opened !== undefined) await opened.#abandon()
      if (seed === undefined) restore(config, deps.stateDirectory, prepared)
      throw error
    }
  }

  private constructor(
    config: GroupConfig,
    deps: MasterDeps,
    log: Logger,
    prepared: PreparedGroup,
    record: GroupRecord,
    native: OpenedGroup,
    seed: Seed | undefined,
  ) {
    this.config = config
    this.counterPage = native.counterPage
    this.#deps = deps
    this.#log = log
    this.#clock = deps.clock ?? systemClock
    this.#counters = new CounterReader(deps.addon)
    this.#group = native.group
    this.#record = record
    this.#known = seed?.known ?? knownAtOpen(prepared, native)
    this.#cleanAtOpen = prepared.clean && {
      incarnation: prepared.before?.incarnation ?? 0n,
      sequence: prepared.clean.sequence,
    }
    this.#volumes = openVolumes(prepared, native)
    this.#mapsStored = native.volumes.every(({ mapStored }) => mapStored)
    this.#trust = this.#makeTrust()
    this.#lease = new HeldLease({
      ...{ addon: deps.addon, group: native.group, name: config.name, leaseMs: config.leaseMs },
      ...{ record, save: () => this.#saveRecord(), log },
    })
    this.#marks = new Marks({ group: config.name, clock: this.#clock, send: message => this.#keeper?.send(message) })
    this.#giveBack = this.#makeGiveBack()
    this.leftOut = this.#makeLeftOut()
    const replicated = config.standby !== undefined
    this.#progress = new GroupProgress(replicated ? carriedSince(prepared, this.#clock) : undefined)
    this.#verification = this.#verifications()
    this.#unsubscribe = deps.events.subscribe(event => this.#handle(event))
    let ticks = 0
    const isIdle = this.#idleness()
    this.#stopSampling = this.#clock.every(sampleMs, () => {
      if (!isIdle() || ++ticks % idleTicks === 0) this.#sample()
    })
    try {
      if (config.standby !== undefined) {
        if (config.peerConnects !== true) this.#transport = deps.transport ?? openTransport(config, deps)
        this.#keeper = this.#makeKeeper(this.#transport, config.standby)
      }
    } catch (error) {
      void this.#abandon()
      throw error
    }
  }

  /** Of one that another process had: it is no more, and this is the master from here on. */
  begin(): void {
    if (!this.#waitsForBegin || this.#closing !== undefined) return
    if (!this.#mapsStored) delete this.#record.live
    try {
      this.#saveRecord()
    } catch (error) {
      // The files go on saying what the predecessor said, which holds as long as the standby hears nothing of this one.
      this.#log.error(`${describe(error)}; no session with the standby before that is written`)
      this.#clock.after(beginAgainMs, () => this.begin())
      return
    }
    this.#waitsForBegin = false
    this.#begin(this.#known !== undefined && this.#record.live === undefined)
  }

  /** Of a reign that begins: before anything on disk says that it has. */
  putOnDisk(): void {
    if (this.#prepared !== undefined) persist(this.config, this.#deps.stateDirectory, this.#prepared, this.#record)
    this.#prepared = undefined
  }

  /** A reign that begins: what its copy was before is done with, on disk, and clients may write. */
  letWrite(): void {
    this.#deps.addon.letWrite(this.#group)
  }

  async #abandon(): Promise<void> {
    this.#keeper?.stop('the group could not be opened')
    this.#release()
    await Promise.all(this.#volumes.map(({ follower }) => follower.close()))
    await this.#deps.addon.closeGroup(this.#group)
  }

  exports(): ExportedVolume[] {
    return this.#volumes.map(volume => exportOf(volume, this.config.standby !== undefined))
  }

  status(): VolumeStatus[] {
    this.#sample()
    const now = { monotonicMs: this.#clock.monotonicMs(), wallMs: this.#clock.wallMs() }
    const counters = this.#groupCounters()
    const dirty = this.#volumes.map(volume => this.#dirtyBytes(volume))
    const state = this.#state(counters)
    return this.#volumes.map((volume, index) =>
      masterVolumeStatus({
        config: this.config,
        name: volume.config.name,
        sizeBytes: volume.identity.sizeBytes,
        direct: volume.config.direct,
        generation: this.#record.generation,
        counters,
        dirtyBytes: dirty[index] ?? 0n,
        groupDirtyBytes: sum(dirty),
        state,
        lease: this.#lease.status(),
        link: this.#link(),
        progress: this.#progress,
        now,
        lastVerify: volume.lastVerify,
        unreadable: volume.unreadable,
        filter: filterStatus(
          volume.config,
          volume.follower.current,
          this.#counters.one('volume', volume.counterPage, 'left_out_bytes'),
          this.#deps.addon.savedByRule(volume.handle),
        ),
      }),
    )
  }

  verify(name: string, request?: VerifyRequest): Promise<VerifyReport> {
    return this.#verification.verify(name, request)
  }

  explainFilter(name: string, rules: readonly FileRule[]): Promise<FilterExplanation> {
    return explainFilter(this.#deps.addon, this.#volumeNamed(name), rules)
  }

  async changeFilter(name: string, filter: FilterConfig, dryRun = false): Promise<FilterOutcome> {
    const volume = this.#volumeNamed(name)
    const { name: group } = this.config
    if (this.#closing !== undefined) throw new OperationError('CLOSING', `filter: group ${group} is being closed`)
    // The device is not what its file systems and tables are to be read from.
    if (this.isOwed || this.#waitsForBegin)
      throw new OperationError('NOT_SERVED', `filter: group ${group} is not served yet; ask again when it is`)
    const outcome = await changeFilter(this.#deps.addon, volume, filter, dryRun)
    if (!dryRun) for (const warning of outcome.warnings) this.#log.warn(`volume ${name}: ${warning}`)
    return outcome
  }

  /** Of this moment: what clients were told is written is in it. Resolves when the standby has noted it. */
  async mark(name: string, label: string): Promise<Position & { timeNs: bigint }> {
    if (this.config.standby === undefined || this.#closing !== undefined)
      throw new OperationError('NO_STANDBY', `mark ${name}: there is no standby that could note it`)
    const counters = this.#groupCounters()
    const { state, reason } = this.#state(counters)
    if (state !== 'replicating' || this.#keeper?.state !== 'connected')
      throw new OperationError(
        'NOT_REPLICATING',
        `mark ${name}: the standby does not follow now (${reason === '' ? state : reason}), so this moment cannot be noted`,
      )
    const position = { incarnation: this.#record.incarnation, sequence: marksOf(counters).written }
    const mark = markNow('mark', label, position, this.#clock)
    await this.#marks.send(mark)
    return { ...position, timeNs: mark.timeNs }
  }

  #volumeNamed(name: string): OpenVolume {
    const volume = this.#volumes.find(({ config }) => config.name === name)
    if (volume === undefined) throw new UsageError(`filter: group ${this.config.name} has no volume '${name}'`)
    return volume
  }

  /** Once: further calls get the same promise. */
  close(options: CloseOptions): Promise<CloseOutcome> {
    this.#closing ??= this.#close(options)
    return this.#closing
  }

  get history(): readonly Reign[] {
    return this.#record.history
  }

  get volumeIdentities(): readonly VolumeIdentity[] {
    return this.#volumes.map(({ identity }) => identity)
  }

  /** The peer has said that it, or somebody else, reigns. */
  get outranked(): Refused | undefined {
    return this.#outranked
  }

  /** Clients are not to be served: the standby is to give back first what this host has lost. */
  get isOwed(): boolean {
    return this.#giveBack.isOwed
  }

  /**
   * Resolves when the standby has taken us for its master or has not; earlier, when it cannot be reached at all. What it
   * owes us is waited for, for a while.
   */
  async firstContact(): Promise<void> {
    if (this.#keeper === undefined) return
    const { firstOutcome, heard } = this.#keeper
    const is = (what: string): Promise<string> =>
      sleep(this.#clock, what === 'silent' ? silentMs[this.config.transport] : answerMs).then(() => what)
    const first = await Promise.race([firstOutcome.then(() => 'over'), heard.then(() => 'heard'), is('silent')])
    if (first === 'heard') await Promise.race([firstOutcome, is('late')])
    if (this.isOwed && this.#keeper.state === 'connected')
      await Promise.race([this.#giveBack.settled, sleep(this.#clock, givenBackMs)])
  }

  /** A peer with another history has connected. */
  noteOutranked(refused: Refused): void {
    this.#outranked = refused
  }

  /** The last record, if it is certain that nothing has changed since: a clean stop, and no write after it. */
  provenPosition(): Position | undefined {
    const written = this.#volumes.some(volume => {
      return writesOf(this.#counters.read('volume', volume.counterPage)) > 0n
    })
    return written || sum(this.#volumes.map(volume => this.#dirtyBytes(volume))) > 0n ? undefined : this.#cleanAtOpen
  }

  /** The peer has connected and wants to follow. */
  offer(session: Session): SessionHandler | undefined {
    return this.#waitsForBegin ? undefined : this.#keeper?.take(session)
  }

  /** No session until resume(), also after a restart. */
  pause(): void {
    this.#lease.refusePause()
    this.#record.pausedSince ??= new Date(this.#clock.wallMs()).toISOString()
    this.#saveRecord()
    this.#pauseKeeper(this.#record.pausedSince)
  }

  resume(): void {
    delete this.#record.pausedSince
    this.#saveRecord()
    this.#keeper?.resume()
  }

  /** Clients are answered without a lease from now on, until a standby is there again. Refused while it is, or one is held. */
  giveUpLease(): string[] {
    if (this.#outranked !== undefined)
      throw new SafetyRefusal(
        'DIVERGED',
        `promote ${this.config.name}: ${this.#outranked.message}; see understudy resolve`,
      )
    return [this.#lease.giveUp(this.#keeper?.state === 'connected')]
  }

  /** Until when a lease is held, for who goes on in place of this process. */
  get leaseUntilNs(): bigint | undefined {
    return this.#lease.untilNs()
  }

  /** Nothing is believed of the standby's copy any more: everything is compared. */
  invalidate(): void {
    this.#giveBack.drop()
    this.#trust.distrust()
    this.#known = undefined
    this.#durable = 0n
    if (this.#attached) this.#deps.addon.detach(this.#group)
    else this.#keeper?.restart('everything is to be compared')
  }

  get mustYield(): boolean {
    return this.#discard !== ''
  }

  /** The operator has decided for this side: the peer is to save what only it has, and to follow. */
  prevail(): void {
    this.#discard = this.#outranked?.history.at(-1)?.id ?? ''
    this.#giveBack.drop()
    this.#keeper?.retryNow()
  }

  #makeTrust(): MapTrust {
    return new MapTrust({
      addon: this.#deps.addon,
      group: this.#group,
      volumes: this.#volumes.map(({ identity, config }) => ({ uuid: identity.uuid, device: config.device })),
      record: this.#record,
      save: () => this.#saveRecord(),
      clock: this.#clock,
      log: this.#log,
    })
  }

  #makeLeftOut(): LeftOut {
    return new LeftOut({
      addon: this.#deps.addon,
      log: this.#log,
      group: this.#group,
      volumes: this.#volumes,
      record: this.#record,
      save: () => this.#saveRecord(),
      isOwed: () => this.isOwed,
      isClosing: () => this.#closing !== undefined,
      isAttached: () => this.#attached,
      distrust: () => this.#trust.distrust(),
      complete: () => void this.#trust.complete(() => this.#known),
      hello: () => this.#hello(),
      send: message => this.#keeper?.send(message),
      writesOf: volume => writesOf(this.#counters.read('volume', volume.counterPage)),
    })
  }

  #makeGiveBack(): GiveBack {
    const volumes = this.#volumes.map(({ config }) => config)
    return new GiveBack({
      record: this.#record,
      save: () => this.#saveRecord(),
      bootId: this.#deps.bootId ?? bootId(),
      log: this.#log,
      volumes: volumes.map(({ name }) => name).join(', '),
      maps: volumes.map(({ name }) => dirtyMapPath(this.#deps.stateDirectory, name)),
      flush: async () => {
        for (const { device } of volumes) await flushDevice(device)
      },
      part: () => this.#deps.addon.part(this.#group),
      settled: () => this.#served(),
    })
  }

  /** `fills`: the maps on disk are not kept, and are to be. */
  #begin(fills: boolean): void {
    if (this.#known === undefined) this.#trust.distrust()
    else this.#trust.follow(this.#known)
    if (fills) void this.#trust.complete(() => this.#known)
    if (!this.isOwed) this.leftOut.follow()
    if (!this.isOwed) for (const { follower } of this.#volumes) follower.begin()
    const { pausedSince } = this.#record
    if (pausedSince === undefined) this.#keeper?.start()
    else this.#pauseKeeper(pausedSince)
  }

  /** The device is whole: what its partition table says counts from here on, and it may be another than at the start. */
  #served(): void {
    this.leftOut.follow()
    for (const { ranges, follower } of this.#volumes) {
      if (ranges.watched.length > 0) follower.watched()
      follower.begin()
    }
    this.#deps.settled?.()
  }

  #pauseKeeper(since: string): void {
    this.#keeper?.pause(`paused by the operator at ${since}; understudy resume ends it`)
  }

  #verifications(): Verification {
    return new Verification({
      ...this.#deps,
      clock: this.#clock,
      log: this.#log,
      groupName: this.config.name,
      group: this.#group,
      volumes: this.#volumes,
      scrubEveryMs: this.config.scrubEveryMs,
      state: () => this.#state(this.#groupCounters()),
      interrupted: () => (this.#attached ? undefined : (this.#keeper?.reason ?? 'the group is being closed')),
    })
  }

  #makeKeeper(transport: Transport | undefined, peer: NonNullable<GroupConfig['standby']>): SessionKeeper {
    return new SessionKeeper({
      transport,
      peer,
      own: this.#deps.identity,
      clock: this.#clock,
      random: this.#deps.random ?? Math.random,
      log: this.#log,
      hello: () => {
        this.#suspects = []
        this.#lease.asks()
        this.leftOut.saidInHello()
        return this.#hello()
      },
      welcomed: (session, welcome) => this.#attach(session, welcome),
      refused: refused => {
        this.#lease.refused(refused.code)
        this.#outranked = refused.code === 'promoted' || refused.code === 'diverged' ? refused : undefined
        if (this.#outranked !== undefined) this.#deps.outranked?.(this)
      },
      said: (_, type, message) => this.#heard(type, message),
      lost: () => {
        this.#marks.lost()
        this.#attached = false
        this.#compress = 'off'
      },
    })
  }

  #hello(): Hello {
    return helloOf(this.config, this.#record, this.#volumes, this.#discard)
  }

  #heard(type: string, message: unknown): void {
    if (type === 'noted') this.#noted()
    if (type === 'marked') this.#marks.heard(message)
    if (type !== 'suspects') return // of a newer version
    this.#suspects.push(decodeSuspects(message))
    if (this.#suspects.length > suspectsMax) throw new Error(`more than ${suspectsMax} messages of suspects`)
  }

  /** Where the peer says that its copy may differ: it was a master's device, and knows what it wrote. */
  #markSuspects(): void {
    for (const volume of this.#volumes) {
      const ranges = this.#suspects.filter(({ volume: name }) => name === volume.config.name).flatMap(one => one.ranges)
      if (ranges.length > 0) this.#deps.addon.markRanges(volume.handle, BigUint64Array.from(ranges))
    }
    this.#suspects = []
  }

  #attach(session: Session, welcome: Welcome): void {
    this.#lease.welcomed(welcome)
    this.#marks.welcomed(welcome)
    this.#outranked = undefined
    this.#discard = ''
    this.#met = true
    const compress = compressionOf(this.config.compress, welcome, this.#log)
    this.#noteDurable(this.#groupCounters())
    const facts: AttachFacts = {
      incarnation: this.#record.incarnation,
      durable: this.#durable,
      known: this.#known,
      welcome,
    }
    const decision = decideAttach(facts)
    const { fresh, initial, allDirty } = decision
    const giveBack = this.#giveBack.asks(welcome, decision)
    const known = knownAfterAttach(facts, decision)
    if (allDirty || fresh) this.#trust.distrust()
    else this.#trust.follow(known)
    if (!allDirty) this.#markSuspects()
    this.#deps.addon.attach(this.#group, {
      session: session.id,
      peerIncarnation: welcome.incarnation,
      peerReceived: welcome.received,
      fresh,
      initial,
      allDirty,
      giveBack,
      compress,
    })
    this.#compress = compress
    this.#known = known
    this.#log.info(
      `session with the standby at ${session.address}: ${decision.why}${allDirty ? '; everything is compared' : ''}`,
    )
  }

  #handle(event: AddonEvent): void {
    if (!('group' in event) || event.group !== this.#group) return
    if (event.type === 'attached') {
      this.#attached = true
      this.#log.info(event.mode === 'resume' ? 'replication goes on within the log' : 'resynchronisation begins')
    } else if (event.type === 'detached') {
      this.#detached(event.reason)
    } else if (event.type === 'standby-away') {
      if (event.away) this.#log.warn(awayWords(this.config))
      else this.#log.info('the standby makes progress again')
    } else if (event.type === 'lease') {
      this.#lease.changed(event.held)
    } else if (event.type === 'pairing') {
      this.#giveBack.pairing(event.paired)
    } else if (event.type === 'resync-done') {
      this.#giveBack.complete(this.#groupCounters()['given_back_bytes'] ?? 0n)
      const { sequence, bytes } = event
      this.#log.info(
        `resynchronisation is complete at sequence ${sequence}: ${formatSize(bytes)} were compared or sent`,
      )
      if (this.#record.live === undefined) void this.#trust.complete(() => this.#known)
      this.leftOut.narrow().catch((error: unknown) => this.#log.warn(describe(error)))
    } else if (event.type === 'map-failed') {
      this.#trust.failed(event.message, () => this.#known)
    } else if (event.type === 'watched') {
      this.#volumes.find(volume => volume.handle === event.volume)?.follower.watched()
    } else if (event.type === 'look') {
      this.#volumes.find(volume => volume.handle === event.volume)?.follower.look()
    } else if (event.type === 'device-error') {
      const volume = this.#volumes.find(({ handle }) => handle === event.volume)
      if (event.operation === 'resync read' && volume !== undefined) noteUnreadable(volume, event)
      if (event.operation.startsWith('give back')) this.#giveBack.failed(event.error)
      const name = volume?.config.name ?? this.config.name
      this.#log.error(`volume ${name}: ${event.operation} of ${event.length} bytes at ${event.offset}: ${event.error}`)
    }
  }

  /** The log was given up. A new session tells anew where the standby stands, and brings the resynchronisation. */
  #detached(reason: string): void {
    const why = whyDetached(reason)
    this.#log.warn(`detached (${why}): writes are marked in the dirty map until the standby is back`)
    this.#attached = false
    const pauseMs = reason === 'max-lag' ? this.#lagPause.next(this.#clock.monotonicMs()) : undefined
    this.#keeper?.restart(`the master detached: ${why}`, pauseMs)
  }

  /** Tells whether the standby has everything that was written. */
  #idleness(): () => boolean {
    const [written, applied] = (['written_sequence', 'applied_sequence'] as const).map(name =>
      this.#counters.word('group', this.counterPage, name),
    )
    return () => written?.() === applied?.()
  }

  #sample(): void {
    const counters = this.#groupCounters()
    this.#noteDurable(counters)
    const { state } = this.#state(counters)
    this.#progress.observe(this.#clock.monotonicMs(), this.#clock.wallMs(), counters, state)
    if (this.#attached && state === 'replicating') this.leftOut.tell()
  }

  #noteDurable(counters: Counters): void {
    const { durable } = marksOf(counters)
    if (durable > this.#durable) this.#durable = durable
  }

  #state(counters: Counters): GroupState {
    const state = groupState(counters, this.#link(), sum(this.#volumes.map(volume => this.#dirtyBytes(volume))))
    return withReason(withReason(state, this.#lease.reason()), this.#giveBack.reason)
  }

  #link(): LinkFacts {
    const keeper = this.#keeper
    // An old master that knocked is no doubt of this side's.
    const against = this.#outranked?.code === 'challenged' ? undefined : this.#outranked
    return {
      state: keeper?.state,
      reason: against?.message ?? keeper?.reason ?? '',
      refusal: against?.code ?? keeper?.refusal ?? '',
      attached: this.#attached,
      compress: this.#compress,
      alone: this.config.peerConnects === true && !this.#met,
    }
  }

  #groupCounters(): Counters {
    return this.#counters.read('group', this.counterPage)
  }

  #dirtyBytes(volume: OpenVolume): bigint {
    return this.#counters.one('volume', volume.counterPage, 'dirty_bytes')
  }

  #saveRecord(): void {
    writeJson(groupPath(this.#deps.stateDirectory, this.config.name), encodeGroup(this.#record))
  }

  #release(): void {
    this.#verification.close()
    this.#trust.close()
    this.#lease.close()
    this.#stopSampling()
    this.#unsubscribe()
    this.#transport?.close()
  }

  /**
   * 1. no request is read any more  2. the standby gets what it lacks, within the time  3. the devices are flushed, and
   * the dirty maps say exactly what it has not made durable  4. the devices are closed  5. the group's file says clean.
   * A crash before 5 is an unclean stop. With `hand` nothing is flushed in 3, and nothing is written in 3 and 5.
   */
  async #close({ drainMs, abdicate, hand }: CloseOptions): Promise<CloseOutcome> {
    const { addon } = this.#deps
    await Promise.all(this.#volumes.map(volume => volume.follower.close()))
    await addon.quiesce(this.#group)
    const drained = this.#keeper === undefined || (await this.#drain(drainMs, hand !== undefined))
    const maps = hand === undefined ? undefined : []
    const clean = await this.#saveClean(maps)
    const dirtyBytes = Number(sum(this.#volumes.map(volume => this.#dirtyBytes(volume))))
    if (drained && clean !== undefined && hand === undefined) await this.#markCleanStop(clean.sequence)
    const noted = drained && clean !== undefined && abdicate !== undefined && (await this.#abdicate(clean, abdicate))
    this.#keeper?.stop('the master has stopped')
    this.#release()
    await addon.closeGroup(this.#group)
    if (clean !== undefined && maps !== undefined) {
      const { incarnation, live } = this.#record
      const handed = { incarnation, kept: live !== undefined, clean, maps }
      hand?.(this.config.name, encodeHanded(handed))
    } else if (clean !== undefined) {
      // After the devices are closed, so that their change marks are the last ones.
      this.#record.clean = withChangeMarks(clean)
      if (!this.#giveBack.isOwed) delete this.#record.paired
      this.#saveRecord()
    }
    if (!drained)
      this.#log.warn(
        `stopped before the standby had everything: ${dirtyBytes} bytes are marked dirty for the next start`,
      )
    return { drained, dirtyBytes, ...(abdicate === undefined ? {} : { noted }) }
  }

  /** A point of the standby's history, if it keeps one; the stop does not depend on it. */
  async #markCleanStop(sequence: bigint): Promise<void> {
    if (!this.#marks.areKept) return
    const position = { incarnation: this.#record.incarnation, sequence }
    try {
      await this.#marks.send(markNow('clean-stop', '', position, this.#clock), notedMs)
    } catch (error) {
      this.#log.warn(`stop: ${describe(error)}`)
    }
  }

  /** 1. this side is no master any more, on disk  2. the standby has heard of it (false: that is not known). */
  async #abdicate(clean: CleanStop, { persist, takeOver }: NonNullable<CloseOptions['abdicate']>): Promise<boolean> {
    const position = { incarnation: this.#record.incarnation, sequence: clean.sequence }
    persist(position)
    const noted = new Promise<boolean>(resolve => (this.#noted = () => resolve(true)))
    this.#keeper?.send(encodeAbdicate({ position, takeOver }))
    return Promise.race([noted, sleep(this.#clock, notedMs).then(() => false)])
  }

  #drain(drainMs: number, isDurableEnough: boolean): Promise<boolean> {
    return waitDrained({
      clock: this.#clock,
      drainMs,
      reconnectMs: this.config.peerTimeoutMs,
      connected: () => this.#keeper?.state === 'connected',
      ...(this.#keeper === undefined ? {} : { lostMs: this.#keeper.lostMs }),
      drained: () => {
        const counters = this.#groupCounters()
        const { written, durable, applied } = marksOf(counters)
        const there = isDurableEnough ? durable : applied
        return this.#attached && written === there && this.#state(counters).state === 'replicating'
      },
    })
  }

  /** Undefined: something could not be made sure of; the stop is not a clean one. `maps`: they go there, not to disk. */
  async #saveClean(maps?: number[]): Promise<CleanStop | undefined> {
    try {
      const counters = this.#groupCounters()
      this.#noteDurable(counters)
      const now = { monotonicMs: this.#clock.monotonicMs(), wallMs: this.#clock.wallMs() }
      const marks = marksOf(counters)
      const clean: CleanStop = { sequence: marks.written, volumes: [] }
      for (const volume of this.#volumes) {
        const { sequence, saved } = await saveVolume(this.#deps.addon, volume, maps)
        if (sequence > clean.sequence) clean.sequence = sequence
        clean.volumes.push(saved)
      }
      const known = knownAtStop(this.#known, this.#record.incarnation, this.#durable)
      if (known !== undefined) clean.known = known
      const missingSince = this.#progress.oldestMissingMs(now.monotonicMs, now.wallMs, marks.applied)
      if (missingSince !== undefined) clean.dirtySinceMs = missingSince
      return clean
    } catch (error) {
      this.#log.error(
        `stop: cannot write down what the standby has: ${describe(error)}; the next start takes it for a crash`,
      )
      return undefined
    }
  }
}

const writesOf = (counters: Counters): bigint =>
  sum(['requests_write', 'requests_zero', 'requests_trim'].map(name => counters[name] ?? 0n))

const sum = (values: readonly bigint[]): bigint => values.reduce((total, value) => total + value, 0n)
