/**
 * StandbyGroup: one group in the role of standby: its session and its views, and what may happen to it one after the other.
 *
 * Guarantees: one session at a time feeds the replica, and the next is routed only after the one before has ended; the
 * welcome is sent after the routing, so that no record is lost between; once a promotion is on disk, no record is
 * taken any more.
 * Does not: judge hellos (hello-judgement.ts), promote (promoting.ts), or serve NBD.
 */
import { randomUUID } from 'node:crypto'

import { type Clock, sleep } from '../core/clock.js'
import { compressions, type GroupConfig, type HistoryLimits } from '../core/config-types.js'
import { LagSampler } from '../core/lag-sampler.js'
import { describe, OperationError, SafetyRefusal } from '../core/errors.js'
import type { Hand } from '../core/handed.js'
import { refusePause } from '../core/lease.js'
import type { Logger } from '../core/log.js'
import { Rate } from '../core/rate.js'
import { aliasOf, contains, forkFrom, type Position, type Reign as Generation } from '../core/reigns.js'
import type { VolumeState, VolumeStatus } from '../core/status-types.js'
import { version } from '../core/version.js'
import type { Addon, Point } from '../native/binding.js'
import type { CounterReader } from '../native/counters.js'
import {
  type Abdicate,
  encodeSuspects,
  encodeWelcome,
  type Hello,
  type LeftOut,
  type Mark,
  type Refused,
} from '../transport/messages.js'
import type { Session, SessionHandler } from '../transport/transport.js'
import { markDescriptions, wasWrittenTo } from './formats.js'
import { GrantedLease } from './granted-lease.js'
import { writtenText } from './hello-judgement.js'
import { GroupHistory, type HistoryListing, momentDocument } from './history.js'
import { NotedMarks } from './noted-marks.js'
import type { HistoryPoint } from './points.js'
import type { StandbyImage } from './image.js'
import { type FileWish, makeFile, tailOf } from './image-file.js'
import { type PromoteOptions, Promoting } from './promoting.js'
import { abdicationLines, notOpenStatus } from './promotion.js'
import { Reign } from './reign.js'
import type { ReigningMaster, Reigns } from './reigning.js'
import { Replica } from './replica.js'
import { encodeReplica, leftOutOf, type ReplicaRecord, type ReplicaVolume } from './replica-file.js'
import { saveAll } from './saved-regions.js'
import { standbyState, standbyVolumeStatus } from './standby-status.js'
import type { Store } from './store.js'
import { type GroupView, type StandbyView, type Viewer, type ViewOptions, Views, viewWaitMs } from './views.js'

export interface GroupDeps {
  addon: Addon
  counters: CounterReader
  clock: Clock
  log: Logger
  store: Store
  random64: () => bigint
  ownId: string
  reigns: Reigns
  /** This host's own configuration of the group: it was its master first. */
  own: GroupConfig | undefined
  /** StandbyConfig.stagingBytes, as it is now. */
  stagingBytes: () => number
  /** StandbyConfig.history. */
  keptHistory: HistoryLimits | undefined
  follow: (own: GroupConfig, group: StandbyGroup) => Following
  /** What this host is the master of has changed. */
  changed: () => void
}

/** The way to a master that this host has to connect to. */
export interface Following {
  reason: string
  stop(text: string): void
}

/** A session with what its end can be waited for. */
export interface LiveSession {
  session: Session
  ended: Promise<void>
}

/** One that has nothing to do is looked at that much more rarely: a host may have many. */
const idleTicks = 5

/** Of the link as a standby sees it; a master asks for less where its --peer-timeout is shorter. */
export const idleTimeoutMs = 10_000
const sessionEndMs = 5_000

export class StandbyGroup {
  #live: LiveSession | undefined
  /** Of the link, not of records; the clock of the wall. 0: not since the start. */
  #heardMs = 0
  #follow: Following | undefined
  /** Why the master's history is not followed; '' when it is. */
  #divergence = ''
  /** Said to the old master, and not yet on disk as a promotion. */
  #takesOver = false
  readonly #replica: Replica
  readonly #reign: Reign
  readonly #promoting: Promoting
  readonly #views: Views
  readonly #history: GroupHistory
  readonly #marks: NotedMarks
  readonly #lease: GrantedLease
  readonly #lag = new LagSampler()
  readonly #rate = new Rate(10_000)
  #ticks = 0
  #since: { state: VolumeState; ms: number } | undefined
  #closing = false
  /** Hellos, promotion and closing, one after the other. */
  #queue: Promise<unknown> = Promise.resolve()

  constructor(
    readonly record: ReplicaRecord,
    private readonly deps: GroupDeps,
  ) {
    this.#replica = new Replica(record, deps)
    this.#views = new Views(deps)
    this.#history = new GroupHistory({
      ...{ addon: deps.addon, clock: deps.clock, limits: deps.keptHistory },
      directory: deps.store.groupDirectory(record.group),
      replica: () => this.#replica.handle,
    })
    this.#marks = new NotedMarks({
      ...{ group: record.group, history: this.#history, clock: deps.clock },
      settled: () => this.#replica.settledPosition(),
      isOver: session => this.#live?.session !== session || this.record.promotion !== undefined,
    })
    this.#lease = new GrantedLease(deps.clock)
    this.#reign = new Reign(record, deps, {
      outranked: master => this.#outranked(master),
      settled: () => deps.changed(),
    })
    this.#promoting = new Promoting(record, deps, {
      ...{ replica: this.#replica, history: this.#history, reign: this.#reign, lease: this.#lease },
      leaseLeftMs: () => this.#leaseLeftMs(),
      sessionAddress: () => this.#address(),
      endSession: text => this.#endSession(text),
      stopFollowing: text => this.#stopFollowing(text),
      holders: () => this.#views.holders,
      bytesPerSecond: () => this.#rate.bytesPerSecond,
      isClosing: () => this.#closing,
    })
  }

  /** At start, and before the first session of a new group. An error is kept for the status and thrown. */
  open(): Promise<void> {
    const opened = this.#exclusively(() => this.#open())
    if (this.#promoting.isRollingBack) void this.#exclusively(() => this.#goOn())
    return opened
  }

  /** A promotion is on disk, and what it is of is not served. */
  get isBeingPromoted(): boolean {
    return this.record.promotion !== undefined && this.#reign.master === undefined
  }

  /** What was asked of it before is done, or has failed. */
  settled(): Promise<void> {
    return this.#exclusively(() => Promise.resolve())
  }

  /** openReplica().counterPage; undefined while it is not open. */
  get replicaPage(): number | undefined {
    return this.#replica.page
  }

  get replicaHandle(): number | undefined {
    return this.#replica.handle
  }

  images(): StandbyImage[] {
    const isServed = this.#reign.master !== undefined
    const isCut = isServed || this.#replica.isUsable
    return this.record.volumes.map(volume => ({
      ...{ volume: volume.name, path: this.deps.store.imagePath(volume) },
      ...{ isUsable: isCut, isServed, isPending: this.#replica.isBehind, applied: this.#replica.applied() },
    }))
  }

  /** What is served as a master since the promotion. */
  get promoted(): ReigningMaster | undefined {
    return this.#reign.master
  }

  /** Routes the session to the replica and welcomes it. Another session of the group is closed first. */
  async welcome(live: LiveSession, hello: Hello): Promise<void> {
    if (this.#lease.isAwaited)
      throw new OperationError('STOPPING', `group ${this.record.group}: ${this.#promoting.awaitedLease()}`)
    await this.#exclusively(async () => {
      if (this.record.promotion !== undefined || this.#closing)
        throw new OperationError('STOPPING', `group ${this.record.group} takes no records any more`)
      await this.#replace(live)
      await this.#open()
      this.#noteHello(hello)
      this.#lease.welcomes()
      this.#divergence = ''
      const { addon } = this.deps
      const handle = this.#replica.opened()
      const compress = compressions.find(known => known === hello.compress) ?? 'off'
      const position = addon.attachReplica(handle, live.session.id, this.record.leaseMs ?? 0, compress)
      this.#live = live
      this.#heardMs = this.deps.clock.wallMs()
      void live.ended.then(() => {
        this.#heardMs = this.#linkHeardMs()
        if (this.#live === live) this.#live = undefined
      })
      const isIncomplete = !this.#replica.isUsable
      const untouched = position.incarnation === 0n
      const from = this.#originAt(hello, untouched || isIncomplete)
      for (const message of from?.suspects ?? []) live.session.send(message)
      const stands = untouched && from !== undefined ? from.fork : { ...position, sequence: position.received }
      live.session.send(
        encodeWelcome({
          protocol: hello.protocol,
          program: version,
          replicaId: this.record.replicaId,
          alias: from?.alias ?? '',
          leaseMs: this.record.leaseMs ?? 0,
          givesBack: true,
          compress,
          keepsHistory: this.#history.isKept,
          incarnation: stands.incarnation,
          received: stands.sequence,
          fresh: untouched && this.#replica.isFresh,
          initial: untouched || isIncomplete,
        }),
      )
      this.deps.log.info(
        `group ${this.record.group}: session with master ${this.record.masterId.slice(0, 16)} at ${live.session.address}`,
      )
    })
  }

  /** How the master finds what this copy was before, as long as it is not complete. */
  #originAt(hello: Hello, isOpen: boolean): { alias: string; fork: Position; suspects: object[] } | undefined {
    const { origin, history } = this.record
    if (origin?.suspects === undefined || !isOpen) return undefined
    const suspects = Object.entries(origin.suspects).flatMap(([name, ranges]) => encodeSuspects(name, ranges))
    const theirs = forkFrom(hello.history, origin.reign)
    if (theirs !== undefined) return { alias: aliasOf(this.deps.ownId, origin.reign), fork: theirs, suspects }
    // The other way round: this side went on from the master's reign, and what it did is given up.
    const ours = forkFrom(history, hello.history.at(-1)?.id ?? '')
    return ours === undefined ? undefined : { alias: '', fork: ours, suspects }
  }

  failed(message: string): void {
    this.#replica.error = message
    this.deps.log.error(`group ${this.record.group}: ${message}`)
  }

  /** Several times a second. */
  tick(): void {
    if (!this.#isIdle() || ++this.#ticks % idleTicks === 0) this.#sample()
  }

  /** All that was received is applied, and nothing waits to be noticed. */
  #isIdle(): boolean {
    const { handle, error, isBehind } = this.#replica
    return handle !== undefined && error === '' && this.record.origin === undefined && !isBehind
  }

  #sample(): void {
    const counters = this.#replica.counters()
    const { clock } = this.deps
    this.#lag.observe(clock.monotonicMs(), counters['received_sequence'] ?? 0n, counters['applied_sequence'] ?? 0n)
    this.#rate.observe(clock.monotonicMs(), Number(counters['received_bytes'] ?? 0n))
    if (counters['last_errno'] === 0n) this.#replica.error = ''
    this.#replica.noteWhole()
    const { state } = standbyState({
      counters,
      sessionAddress: this.#address(),
      error: this.#replica.error,
      linkHeardMs: this.#linkHeardMs(),
      nowMs: clock.wallMs(),
      diverged: this.#divergence !== '',
    })
    if (state !== this.#since?.state) this.#since = { state, ms: clock.wallMs() }
  }

  status(): VolumeStatus[] {
    const { promotion } = this.record
    if (promotion !== undefined) {
      const volumes =
        this.#reign.master?.status() ?? notOpenStatus(this.record, promotion, this.#promoting.rollbackText)
      const { asOf } = promotion
      return asOf === undefined ? volumes : volumes.map(volume => ({ ...volume, asOf: momentDocument(asOf) }))
    }
    this.#sample()
    const { clock } = this.deps
    const counters = this.#replica.counters()
    const facts = {
      record: this.record,
      away: this.#whyAway(),
      leaseLeftMs: this.#leaseLeftMs(),
      diverged: this.#divergence !== '',
      counters,
      sessionAddress: this.#address(),
      error: this.#replica.error,
      linkHeardMs: this.#linkHeardMs(),
      sinceMs: this.#since?.ms ?? clock.wallMs(),
      nowMs: clock.wallMs(),
      lagSeconds: this.#lag.ageMs(clock.monotonicMs(), counters['applied_sequence'] ?? 0n) / 1000,
      history: this.#history.status(),
    }
    return this.record.volumes.map(volume => standbyVolumeStatus(facts, volume))
  }

  /**
   * A frozen copy of a volume, with all that was received before, or of an earlier moment (`at`; moment.ts). Waits for
   * the newest records, and for a step, at most 30 s.
   */
  async view(volume: ReplicaVolume, options: ViewOptions): Promise<StandbyView> {
    const view = await this.#view(volume.name, [volume], options)
    const [exported] = view.exported
    if (exported === undefined) throw new OperationError('NATIVE', `export ${volume.name}: the engine opened nothing`)
    return { ...view, exported }
  }

  /** As view(), of all volumes, at one position. */
  viewAll(options: ViewOptions): Promise<GroupView> {
    return this.#view(this.record.group, this.record.volumes, options)
  }

  /** Of all these volumes at one position. */
  async #view(
    name: string,
    volumes: readonly ReplicaVolume[],
    { writable, at = '', format = 'raw', viewer = exportOf(name) }: ViewOptions,
  ): Promise<GroupView> {
    const { action } = viewer
    this.#refuseMaster(action, 'connect to its own export')
    const deadlineMs = this.deps.clock.monotonicMs() + viewWaitMs
    if (at === '' || this.#history.find(action, at).isNewest) await this.#replica.catchUp(action)
    const viewed = volumes.map(volume => ({
      ...{ name: volume.name, index: this.record.volumes.indexOf(volume) },
      ...(format === 'raw' ? {} : { tail: tailOf(volume, format) }),
    }))
    return this.#views.open(viewer, viewed, writable, deadlineMs, async indexes => {
      this.#refuseMaster(action, 'connect to its own export') // Meanwhile.
      if (at === '') this.#replica.refuseUnusable(action)
      return this.#history.views(action, at, indexes, writable)
    })
  }

  /** What view() shows now, as a file, by reflink. */
  async makeFile(volume: ReplicaVolume, wish: FileWish): Promise<Point> {
    const action = `export ${volume.name}`
    const holds = `a file is being made of the copy (${wish.path}); try again when that is done`
    this.#refuseMaster(action, 'connect to its own export')
    const tail = tailOf(volume, wish.format)
    const deadlineMs = this.deps.clock.monotonicMs() + viewWaitMs
    await this.#replica.catchUp(action)
    return this.#views.clone({ action, holds }, deadlineMs, () => {
      this.#refuseMaster(action, 'connect to its own export') // Meanwhile.
      this.#replica.refuseUnusable(action)
      const index = this.record.volumes.indexOf(volume)
      const handle = this.#replica.opened()
      return makeFile(volume, wish, () => this.deps.addon.cloneImage(handle, index, wish.path, tail))
    })
  }

  listHistory(action: string, from: string, to: string, buckets: number): Promise<HistoryListing> {
    this.#refuseMaster(action, 'its history ended with that')
    return this.#history.list(action, from, to, buckets)
  }

  /** The moment that the copy shows now gets a name. */
  async mark(name: string, label: string): Promise<HistoryPoint> {
    const action = `mark ${name}`
    this.#refuseMaster(action, 'its history ended with that')
    await this.#replica.catchUp(action)
    return this.#marks.byHand(action, label)
  }

  /** The master wants a moment to have a name, or tells of its clean stop. */
  async marked(session: Session, mark: Mark): Promise<void> {
    if (this.#live?.session === session) await this.#marks.received(session, mark)
  }

  #refuseMaster(action: string, hint: string): void {
    if (this.record.promotion === undefined) return
    throw new OperationError('PROMOTED', `${action}: it was promoted and is a master's volume now; ${hint}`)
  }

  promote(name: string, options: PromoteOptions): Promise<string[]> {
    return this.#exclusively(() => this.#promoting.promote(name, options))
  }

  /** Which point of the copy's history that is: the moment that it might be promoted as of. */
  findMoment(action: string, at: string): Promise<Point> {
    this.#refuseMaster(action, 'its history ended with that')
    return this.#promoting.findMoment(action, at)
  }

  /** A promotion is near: what it reads and writes comes before replay, for a second; false: it is not. */
  standAside(isAside: boolean): void {
    this.#replica.standAside(isAside)
  }

  /** The reign goes to the other side, which has everything then. */
  demote(name: string, takeOver: boolean, drainMs: number): Promise<string[]> {
    return this.#exclusively(async () => {
      this.#refuseStandby(name, takeOver ? 'switchover' : 'demote')
      const noted = await this.#reign.abdicate(drainMs, takeOver)
      this.#replica.open(this.#promoting.isRollingBack)
      this.#startFollowing()
      return abdicationLines(name, takeOver, noted)
    })
  }

  /** Of two histories the other side's goes on. */
  yieldTo(name: string): Promise<string[]> {
    return this.#exclusively(async () => {
      const lines = await this.#acceptLoss(name)
      this.deps.log.warn(`group ${this.record.group}: ${lines.join('; ')}; it follows the other side`)
      this.deps.changed()
      return lines
    })
  }

  async #acceptLoss(name: string): Promise<string[]> {
    const { origin, promotion } = this.record
    const time = new Date(this.deps.clock.wallMs()).toISOString()
    if (promotion !== undefined) {
      const lines = await this.#reign.yield(time)
      this.#replica.open(this.#promoting.isRollingBack)
      this.#startFollowing()
      return lines
    }
    if (origin === undefined || origin.accepted)
      throw new SafetyRefusal(
        'NOT_DIVERGED',
        `resolve ${name}: this side follows the other already; nothing is in doubt`,
      )
    // That nothing is suspect was said of a side that has all up to `position`, and the other one has not.
    delete origin.suspects
    const lines = await saveAll(this.record, this.deps.store, undefined, time)
    origin.accepted = true
    this.deps.store.save(this.record)
    return lines
  }

  /** The master has ceased to be one: this was its last record. */
  async abdicated({ session }: Pick<LiveSession, 'session'>, { position, takeOver }: Abdicate): Promise<void> {
    const { store, log } = this.deps
    const live = this.#live
    if (live?.session !== session || this.record.promotion !== undefined) return
    this.record.final = position
    store.save(this.record)
    this.#takesOver = takeOver
    session.send({ type: 'noted' })
    log.info(`group ${this.record.group}: the master has given the reign away${takeOver ? ' to this side' : ''}`)
    if (!takeOver) return
    try {
      await live.ended
      await this.promote(this.record.group, { acceptLoss: false, force: false })
    } finally {
      this.#takesOver = false
    }
    this.deps.changed()
  }

  /** The master's filter has changed since its hello, and the copy follows it. */
  leftOut(session: Session, volumes: LeftOut): void {
    if (this.#live?.session !== session || this.record.promotion !== undefined) return
    this.#noteLeftOut(volumes)
    this.deps.store.save(this.record)
  }

  #noteLeftOut(volumes: LeftOut): void {
    for (const volume of this.record.volumes) {
      const told = volumes.find(({ name }) => name === volume.name)
      delete volume.excluded
      delete volume.filesLeftOut
      if (told !== undefined) Object.assign(volume, leftOutOf(told))
    }
  }

  /** It is not the master yet; but nobody else may become it now. */
  get takesOver(): boolean {
    return this.#takesOver || this.record.promotion !== undefined
  }

  /** The old master, now a standby, has connected. */
  offer(session: Session): SessionHandler | undefined {
    return this.#reign.master?.offer(session)
  }

  /** Before a hello of another history is judged: this side gives way if nothing was written here, or if told to. */
  async giveWay(hello: Hello): Promise<void> {
    const { promotion, history } = this.record
    if (promotion === undefined || this.#reign.master === undefined) return
    const own = history.at(-1)?.id ?? ''
    if (hello.discard !== own && !this.#wroteNothingPast(hello.history)) return
    await this.yieldTo(this.record.group)
  }

  /** This side's master was refused by the other one's. */
  #outranked(master: ReigningMaster): void {
    const refused = master.outranked
    if (refused === undefined || !(refused.yield || this.#wroteNothingPast(refused.history))) return
    this.yieldTo(this.record.group).catch((error: unknown) => this.deps.log.error(describe(error)))
  }

  #wroteNothingPast(history: readonly Generation[]): boolean {
    if (this.record.writtenSince !== undefined) return false
    return contains(history, this.record.history.at(-1)?.id ?? '', this.#reign.master?.provenPosition())
  }

  noteOutranked(refused: Refused): void {
    this.#reign.master?.noteOutranked(refused)
    if (this.record.promotion === undefined) this.#divergence = refused.message
  }

  pause(): Promise<void> {
    return this.#exclusively(async () => {
      if (this.record.leaseMs !== undefined) refusePause(this.record.group, this.record.leaseMs)
      this.record.pausedSince ??= new Date(this.deps.clock.wallMs()).toISOString()
      this.deps.store.save(this.record)
      await this.#endSession('paused by the operator of the standby')
    })
  }

  resume(): void {
    delete this.record.pausedSince
    this.deps.store.save(this.record)
  }

  stagingChanged(): void {
    this.#replica.stagingChanged()
  }

  /**
   * This copy is taken for another one from here on: everything is compared, and it stays the cut that it is until then.
   * `inPlace`: the step that is being collected goes straight into it instead, so that it needs no room beside it.
   */
  invalidate(inPlace: boolean): Promise<void> {
    return this.#exclusively(async () => {
      if (inPlace) {
        this.#replica.giveUpCut()
        return
      }
      this.record.replicaId = randomUUID()
      delete this.record.writtenSince
      this.deps.store.save(this.record)
      await this.#endSession('the copy is to be compared as a whole')
    })
  }

  /** Somebody has written to an image that was a cut, while no daemon had it: the operator decides whose it is (G5). */
  #noteWrites(): void {
    const { store, log } = this.deps
    if (this.record.promotion !== undefined) return // its master's files tell
    const written = this.record.volumes.filter(volume => wasWrittenTo(store.imageDirectory(volume.name), volume))
    if (written.length === 0) return
    this.record.writtenSince ??= new Date(this.deps.clock.wallMs()).toISOString()
    store.save(this.record)
    for (const volume of written)
      log.error(`group ${this.record.group}: ${store.imagePath(volume)} was written to while no daemon had it`)
  }

  /** Of the images, for other hypervisors: before they change, and when they are left as a cut. */
  #markDescriptions(isCut: boolean): void {
    const { store, log } = this.deps
    for (const volume of this.record.volumes)
      try {
        markDescriptions(store.imageDirectory(volume.name), volume, isCut)
      } catch (error) {
        log.error(`group ${this.record.group}: ${describe(error)}`)
      }
  }

  /** True: everything that was received and committed is in the images. */
  close(drainMs: number, hand?: Hand): Promise<boolean> {
    this.#closing = true
    return this.#exclusively(async () => {
      await this.#endSession('the standby is stopping')
      await this.#views.close()
      this.#stopFollowing('the standby is stopping')
      const reigned = this.#reign.master !== undefined
      const drainedReign = await this.#reign.close(drainMs, hand)
      if (this.#replica.handle === undefined) {
        if (hand === undefined && reigned) this.#markDescriptions(true)
        return drainedReign
      }
      const drained = await this.#replica.drain(drainMs)
      const isCut = drained && this.#replica.isUsable && !this.#promoting.isRollingBack
      this.#replica.close()
      if (hand === undefined && isCut) this.#markDescriptions(true)
      return drained
    })
  }

  async #open(): Promise<void> {
    if (this.#replica.handle !== undefined || this.#reign.master !== undefined) return
    this.#noteWrites()
    this.#markDescriptions(false)
    if (this.record.promotion === undefined || this.#promoting.isRollingBack)
      this.#replica.open(this.#promoting.isRollingBack)
    else await this.#promoting.becomeMaster()
    this.#startFollowing()
  }

  /** It may take long, and a daemon that starts does not wait for it. */
  async #goOn(): Promise<void> {
    if (this.#closing || !this.#promoting.isRollingBack) return
    try {
      await this.#promoting.becomeMaster()
      this.deps.changed()
    } catch (error) {
      this.deps.log.error(describe(error))
    }
  }

  #leaseLeftMs(): number {
    return this.#lease.leftMs(this.record.leaseMs, this.#replica.leaseAgeMs())
  }

  #whyAway(): string {
    if (this.#lease.isAwaited) return this.#promoting.awaitedLease()
    if (this.record.writtenSince !== undefined) return writtenText(this.record)
    return this.#divergence === '' ? (this.#follow?.reason ?? '') : this.#divergence
  }

  #startFollowing(): void {
    const { own, follow } = this.deps
    if (own?.standby === undefined || this.record.promotion !== undefined || this.#follow !== undefined) return
    this.#follow = follow(own, this)
  }

  #stopFollowing(text: string): void {
    this.#follow?.stop(text)
    this.#follow = undefined
  }

  #refuseStandby(name: string, action: string): void {
    if (this.record.promotion === undefined)
      throw new SafetyRefusal('IS_STANDBY', `${action} ${name}: this host is its standby; ask the daemon of its master`)
  }

  async #replace(live: LiveSession): Promise<void> {
    if (this.#live === undefined || this.#live === live) return
    await this.#endSession('replaced by a newer session of the same master')
  }

  /** Resolves when the engine has let go of the session. */
  async #endSession(text: string): Promise<void> {
    const live = this.#live
    if (live === undefined) return
    live.session.close(text)
    const late = sleep(this.deps.clock, sessionEndMs).then(() => 'late')
    if ((await Promise.race([live.ended, late])) === 'late') {
      throw new OperationError(
        'BUSY',
        `group ${this.record.group}: its session has not ended within ${sessionEndMs / 1000} s`,
      )
    }
  }

  #noteHello({ durability, leaseMs, generation, history, volumes }: Hello): void {
    const { record } = this
    const before = JSON.stringify(encodeReplica(record))
    record.durability = durability
    if (leaseMs > 0) record.leaseMs = leaseMs
    else delete record.leaseMs
    delete record.final
    this.#noteLeftOut(volumes)
    if (record.origin === undefined) Object.assign(record, { generation, history })
    else record.origin.next = { generation, history }
    if (JSON.stringify(encodeReplica(record)) !== before) this.deps.store.save(record)
  }

  /** A session that hears nothing ends within its idle timeout: so long ago at most the master was heard. 0: never. */
  #linkHeardMs(): number {
    if (this.#live === undefined) return this.#heardMs
    const idleMs = Math.max(idleTimeoutMs, this.deps.own?.peerTimeoutMs ?? 0)
    return Math.max(this.#heardMs, this.deps.clock.wallMs() - idleMs)
  }

  #address(): string {
    return this.#live?.session.address ?? ''
  }

  #exclusively<T>(task: () => Promise<T>): Promise<T> {
    const done = this.#queue.then(task)
    this.#queue = done.catch(() => undefined)
    return done
  }
}

const exportOf = (name: string): Viewer => ({
  ...{ action: `export ${name}`, holds: 'the copy is being exported; end the export first' },
})
