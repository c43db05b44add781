/**
 * StandbyGroup: one group in the role of standby: its replica in the engine, its session, its views and its promotion.
 *
 * Guarantees: one session at a time feeds the replica, and the next is routed only after the one before has ended; the
 * welcome is sent after the routing, so that no record is lost between; once a promotion is on disk, no record is
 * taken any more, and once `sealed` is, the log is never replayed onto the images again.
 * Does not: judge hellos (hello-judgement.ts), or serve NBD.
 */
import { randomUUID } from 'node:crypto'

import { type Clock, sleep } from '../core/clock.js'
import { compressions, type GroupConfig, type HistoryLimits } from '../core/config-types.js'
import { LagSampler } from '../core/lag-sampler.js'
import { describe, errnoOf, NativeError, OperationError, SafetyRefusal } from '../core/errors.js'
import type { Hand } from '../core/handed.js'
import { refusePause } from '../core/lease.js'
import type { Logger } from '../core/log.js'
import { Rate } from '../core/rate.js'
import { formatDuration } from '../core/units.js'
import { aliasOf, contains, forkFrom, isBefore, type Position, type Reign as Generation } from '../core/reigns.js'
import type { VolumeState, VolumeStatus } from '../core/status-types.js'
import { version } from '../core/version.js'
import type { Addon, Point } from '../native/binding.js'
import type { CounterReader, Counters } from '../native/counters.js'
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
import { howToRemove, writtenText } from './hello-judgement.js'
import { GroupHistory, type HistoryListing, momentDocument } from './history.js'
import { NotedMarks } from './noted-marks.js'
import type { HistoryPoint } from './points.js'
import type { StandbyImage } from './image.js'
import { type FileWish, makeFile, tailOf } from './image-file.js'
import {
  abdicationLines,
  mayPromote,
  notOpenStatus,
  promotedAlready,
  promotionLines,
  refuseOther,
  undoneLine,
} from './promotion.js'
import { Reign, type Sealing } from './reign.js'
import type { ReigningMaster, Reigns } from './reigning.js'
import { encodeReplica, leftOutOf, type Promotion, type ReplicaRecord, type ReplicaVolume } from './replica-file.js'
import { Rollback } from './rollback.js'
import { saveAll } from './saved-regions.js'
import { isUsable, phase, standbyState, standbyVolumeStatus } from './standby-status.js'
import type { Store } from './store.js'
import { type GroupView, type StandbyView, unusable, type ViewOptions, Views, viewWaitMs } from './views.js'

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

export interface PromoteOptions {
  acceptLoss: boolean
  /** Without waiting for the end of the master's lease. */
  force: boolean
  /** Where the images are to be served from now on, also after a restart. */
  listen?: string
  /** Not as the copy is now, but as it was: a moment as people write it (moment.ts); absent or '': now. */
  at?: string
  /** What was promoted may be read; writes wait until promote() resolves, and its failure ends it. */
  readable?: () => void
}

interface OpenReplica {
  handle: number
  counterPage: number
  /** Positions of its page: what is looked at of one that has nothing to do. */
  received: () => bigint
  applied: () => bigint
}

/** One that has nothing to do is looked at that much more rarely: a host may have many. */
const idleTicks = 5

const sessionEndMs = 5_000
const sealMs = 60_000
/** Who waits to read is let in before replay takes the processors and the disk again. */
const readersFirstMs = 30

export class StandbyGroup {
  #replica: OpenReplica | undefined
  #live: LiveSession | undefined
  #error = ''
  #follow: Following | undefined
  /** Why the master's history is not followed; '' when it is. */
  #divergence = ''
  /** Said to the old master, and not yet on disk as a promotion. */
  #takesOver = false
  readonly #reign: Reign
  readonly #rollback: Rollback
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
    this.#views = new Views(deps)
    this.#history = new GroupHistory({
      ...{ addon: deps.addon, clock: deps.clock, limits: deps.keptHistory },
      directory: deps.store.groupDirectory(record.group),
      replica: () => this.#replica?.handle,
    })
    this.#marks = new NotedMarks({
      ...{ group: record.group, history: this.#history, clock: deps.clock },
      settled: () => this.#settledPosition(),
      isOver: session => this.#live?.session !== session || this.record.promotion !== undefined,
    })
    this.#lease = new GrantedLease(deps.clock)
    this.#rollback = new Rollback(record.group, deps)
    this.#reign = new Reign(record, deps, {
      outranked: master => this.#outranked(master),
      settled: () => deps.changed(),
    })
  }

  /** At start, and before the first session of a new group. An error is kept for the status and thrown. */
  open(): Promise<void> {
    const opened = this.#exclusively(() => this.#open())
    if (this.#isRollingBack()) void this.#exclusively(() => this.#goOn())
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
    return this.#replica?.counterPage
  }

  get replicaHandle(): number | undefined {
    return this.#replica?.handle
  }

  images(): StandbyImage[] {
    const [replica, isServed] = [this.#replica, this.#reign.master !== undefined]
    const applied = replica?.applied() ?? 0n
    const isPending = replica !== undefined && replica.received() !== applied
    const isCut = isServed || isUsable(this.#counters())
    return this.record.volumes.map(volume => ({
      ...{ volume: volume.name, path: this.deps.store.imagePath(volume) },
      ...{ isUsable: isCut, isServed, isPending, applied },
    }))
  }

  /** What is served as a master since the promotion. */
  get promoted(): ReigningMaster | undefined {
    return this.#reign.master
  }

  /** Routes the session to the replica and welcomes it. Another session of the group is closed first. */
  async welcome(live: LiveSession, hello: Hello): Promise<void> {
    if (this.#lease.isAwaited)
      throw new OperationError('STOPPING', `group ${this.record.group}: ${this.#awaitedLease()}`)
    await this.#exclusively(async () => {
      if (this.record.promotion !== undefined || this.#closing)
        throw new OperationError('STOPPING', `group ${this.record.group} takes no records any more`)
      await this.#replace(live)
      await this.#open()
      this.#noteHello(hello)
      this.#lease.welcomes()
      this.#divergence = ''
      const { addon } = this.deps
      const { handle, counterPage } = this.#opened()
      const compress = compressions.find(known => known === hello.compress) ?? 'off'
      const position = addon.attachReplica(handle, live.session.id, this.record.leaseMs ?? 0, compress)
      this.#live = live
      void live.ended.then(() => {
        if (this.#live === live) this.#live = undefined
      })
      const counters = this.deps.counters.read('replica', counterPage)
      const untouched = position.incarnation === 0n
      const from = this.#originAt(hello, untouched || !isUsable(counters))
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
          fresh: untouched && this.#isFresh(counters),
          initial: untouched || !isUsable(counters),
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
    this.#error = message
    this.deps.log.error(`group ${this.record.group}: ${message}`)
  }

  /** Several times a second. */
  tick(): void {
    if (!this.#isIdle() || ++this.#ticks % idleTicks === 0) this.#sample()
  }

  /** All that was received is applied, and nothing waits to be noticed. */
  #isIdle(): boolean {
    const replica = this.#replica
    if (replica === undefined || this.#error !== '' || this.record.origin !== undefined) return false
    return replica.received() === replica.applied()
  }

  #sample(): void {
    const counters = this.#counters()
    const { clock } = this.deps
    this.#lag.observe(clock.monotonicMs(), counters['received_sequence'] ?? 0n, counters['applied_sequence'] ?? 0n)
    this.#rate.observe(clock.monotonicMs(), Number(counters['received_bytes'] ?? 0n))
    if (counters['last_errno'] === 0n && this.#replica !== undefined) this.#error = ''
    this.#noteWhole(counters)
    const { state } = standbyState({
      counters,
      sessionAddress: this.#address(),
      error: this.#error,
      nowMs: clock.wallMs(),
      diverged: this.#divergence !== '',
    })
    if (state !== this.#since?.state) this.#since = { state, ms: clock.wallMs() }
  }

  status(): VolumeStatus[] {
    const { promotion } = this.record
    if (promotion !== undefined) {
      const volumes = this.#reign.master?.status() ?? notOpenStatus(this.record, promotion, this.#rollback.text)
      const { asOf } = promotion
      return asOf === undefined ? volumes : volumes.map(volume => ({ ...volume, asOf: momentDocument(asOf) }))
    }
    this.#sample()
    const { clock } = this.deps
    const counters = this.#counters()
    const facts = {
      record: this.record,
      away: this.#whyAway(),
      leaseLeftMs: this.#leaseLeftMs(),
      diverged: this.#divergence !== '',
      counters,
      sessionAddress: this.#address(),
      error: this.#error,
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
    const view = await this.#view(`export ${volume.name}`, [volume], options)
    const [exported] = view.exported
    if (exported === undefined) throw new OperationError('NATIVE', `export ${volume.name}: the engine opened nothing`)
    return { ...view, exported }
  }

  /** As view(), of all volumes, at one position. */
  viewAll(options: ViewOptions): Promise<GroupView> {
    return this.#view(`export ${this.record.group}`, this.record.volumes, options)
  }

  /** Of all these volumes at one position. */
  async #view(
    otherwise: string,
    volumes: readonly ReplicaVolume[],
    { writable, at = '', format = 'raw', action = otherwise }: ViewOptions,
  ): Promise<GroupView> {
    this.#refuseMaster(action, 'connect to its own export')
    const deadlineMs = this.deps.clock.monotonicMs() + viewWaitMs
    if (at === '' || this.#history.find(action, at).isNewest) await this.#catchUp(action)
    const viewed = volumes.map(volume => ({
      ...{ name: volume.name, index: this.record.volumes.indexOf(volume) },
      ...(format === 'raw' ? {} : { tail: tailOf(volume, format) }),
    }))
    return this.#views.open(action, viewed, writable, deadlineMs, async indexes => {
      this.#refuseMaster(action, 'connect to its own export') // Meanwhile.
      if (at === '') this.#refuseUnusable(action)
      return this.#history.views(action, at, indexes, writable)
    })
  }

  /** What view() shows now, as a file, by reflink. */
  async makeFile(volume: ReplicaVolume, wish: FileWish): Promise<Point> {
    const action = `export ${volume.name}`
    this.#refuseMaster(action, 'connect to its own export')
    const tail = tailOf(volume, wish.format)
    const deadlineMs = this.deps.clock.monotonicMs() + viewWaitMs
    await this.#catchUp(action)
    return this.#views.clone(action, deadlineMs, () => {
      this.#refuseMaster(action, 'connect to its own export') // Meanwhile.
      this.#refuseUnusable(action)
      const index = this.record.volumes.indexOf(volume)
      const { handle } = this.#opened()
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
    await this.#catchUp(action)
    return this.#marks.byHand(action, label)
  }

  /** The master wants a moment to have a name, or tells of its clean stop. */
  async marked(session: Session, mark: Mark): Promise<void> {
    if (this.#live?.session === session) await this.#marks.received(session, mark)
  }

  /** Where the images are while they are a cut beside which no step is collected. */
  #settledPosition(): Position | undefined {
    const counters = this.#counters()
    if (counters['phase'] !== phase.cut) return undefined
    return { incarnation: counters['incarnation'] ?? 0n, sequence: counters['applied_sequence'] ?? 0n }
  }

  #refuseMaster(action: string, hint: string): void {
    if (this.record.promotion === undefined) return
    throw new OperationError('PROMOTED', `${action}: it was promoted and is a master's volume now; ${hint}`)
  }

  /**
   * 1. the promotion is on disk: the old master is refused from here on  2. the session ends, and no record is taken
   * any more  3. the images may be read, with what is durable and not applied  4. it is, they are synced, and `sealed` is
   * on disk: the log is done with  5. clients may write.
   * After a crash the next start goes on behind the last step that is on disk.
   * As of an earlier moment: it is found first, and its exact position is in 1; between 2 and 3 the images are synced, and
   * what was written since is undone. Until 4 the history stays as it is, so that all of that can be done again.
   */
  promote(name: string, options: PromoteOptions): Promise<string[]> {
    return this.#exclusively(() => this.#promote(name, options))
  }

  /** A promotion is near: what it reads and writes comes before replay, for a second; false: it is not. */
  standAside(isAside: boolean): void {
    if (this.#replica !== undefined) this.deps.addon.standAside(this.#replica.handle, isAside)
  }

  /** The reign goes to the other side, which has everything then. */
  demote(name: string, takeOver: boolean, drainMs: number): Promise<string[]> {
    return this.#exclusively(async () => {
      this.#refuseStandby(name, takeOver ? 'switchover' : 'demote')
      const noted = await this.#reign.abdicate(drainMs, takeOver)
      this.#openReplica()
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
      this.#openReplica()
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
    if (this.#replica !== undefined) this.deps.addon.setStagingMax(this.#replica.handle, this.deps.stagingBytes())
  }

  /**
   * This copy is taken for another one from here on: everything is compared, and it stays the cut that it is until then.
   * `inPlace`: the step that is being collected goes straight into it instead, so that it needs no room beside it.
   */
  invalidate(inPlace: boolean): Promise<void> {
    return this.#exclusively(async () => {
      if (inPlace) {
        this.#giveUpCut(this.#opened())
        return
      }
      this.record.replicaId = randomUUID()
      delete this.record.writtenSince
      this.deps.store.save(this.record)
      await this.#endSession('the copy is to be compared as a whole')
    })
  }

  #giveUpCut({ handle }: OpenReplica): void {
    try {
      this.deps.addon.giveUpCut(handle)
    } catch (error) {
      if (errnoOf(error) !== 'EALREADY') throw new NativeError(`invalidate group ${this.record.group}`, error)
      throw new OperationError(
        'NOT_STAGING',
        `invalidate --in-place: no step is being collected for group ${this.record.group}, so nothing is in need of it`,
      )
    }
    this.deps.log.warn(
      `group ${this.record.group}: the cut was given up by the operator; the copy is not usable before the step is complete`,
    )
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
      const replica = this.#replica
      if (replica === undefined) {
        if (hand === undefined && reigned) this.#markDescriptions(true)
        return drainedReign
      }
      const drained = await this.#drain(replica, drainMs)
      const isCut = drained && isUsable(this.#counters()) && !this.#isRollingBack()
      this.#replica = undefined
      this.deps.addon.closeReplica(replica.handle)
      if (hand === undefined && isCut) this.#markDescriptions(true)
      return drained
    })
  }

  async #open(): Promise<void> {
    if (this.#replica !== undefined || this.#reign.master !== undefined) return
    this.#noteWrites()
    this.#markDescriptions(false)
    if (this.record.promotion === undefined || this.#isRollingBack()) this.#openReplica()
    else await this.#becomeMaster()
    this.#startFollowing()
  }

  /** It may take long, and a daemon that starts does not wait for it. */
  async #goOn(): Promise<void> {
    if (this.#closing || !this.#isRollingBack()) return
    try {
      await this.#becomeMaster()
      this.deps.changed()
    } catch (error) {
      this.deps.log.error(describe(error))
    }
  }

  /** The images are to be what they were at a moment, and are not known to be. */
  #isRollingBack(): boolean {
    const { promotion } = this.record
    return promotion?.asOf !== undefined && !promotion.sealed
  }

  async #promote(name: string, options: PromoteOptions): Promise<string[]> {
    const known = this.record.promotion
    const before = known && { ...known }
    this.standAside(true)
    let lines: string[]
    try {
      lines = known === undefined ? await this.#begin(name, options) : await this.#again(name, options, known)
      this.deps.store.save(this.record)
    } catch (error) {
      this.standAside(false)
      this.#takeBack(before)
      throw error
    }
    if (this.#reign.master !== undefined) return [`${name} was promoted already, at ${known?.time ?? ''}`]
    const undone = await this.#becomeMaster(options.readable)
    return undone === undefined ? lines : [...lines, undoneLine(undone)]
  }

  /** What did not get on disk has not happened, and whatever is saved next must not make it happen. */
  #takeBack(before: Promotion | undefined): void {
    const { promotion } = this.record
    if (before !== undefined) this.record.promotion = before
    else delete this.record.promotion
    if (before === undefined && promotion?.asOf !== undefined) this.#holdHistory(false)
  }

  /** What is to be on disk before anything is done. Nothing has changed when it throws. */
  async #begin(name: string, { at = '', acceptLoss, force, listen }: PromoteOptions): Promise<string[]> {
    const { clock, random64 } = this.deps
    const asOf = at === '' ? undefined : await this.findMoment(`promote ${name}`, at)
    if (asOf === undefined && !this.#isUntouchedOrigin()) this.#refuseUnusable(`promote ${name}`)
    const isCurrent = this.#isCurrent()
    this.#mayPromote(name, acceptLoss, isCurrent, asOf)
    const lines = this.#promotionLines(asOf)
    try {
      if (asOf !== undefined) await this.#holdMoment(name, asOf)
      if (!isCurrent) lines.push(...(await this.#outlive(name, force)))
      this.#mayPromote(name, true) // An export may have begun.
    } catch (error) {
      if (asOf !== undefined) this.#holdHistory(false)
      throw error
    }
    this.record.promotion = {
      ...{ time: new Date(clock.wallMs()).toISOString(), generation: random64().toString(16).padStart(16, '0') },
      ...{ sealed: false, begun: false },
      ...(listen === undefined ? {} : { listen }),
      ...(asOf === undefined ? {} : { asOf: pointOf(asOf) }),
    }
    return lines
  }

  /** One that is on disk goes on; when it is over, only where it is served may change. */
  async #again(name: string, { at = '', listen }: PromoteOptions, known: Promotion): Promise<string[]> {
    const isOver = this.#reign.master !== undefined
    if (isOver && (at !== '' || (listen ?? known.listen) === known.listen)) throw promotedAlready(name, known)
    if (at !== '')
      refuseOther(name, known, this.#isRollingBack() ? await this.#history.locate(`promote ${name}`, at) : null)
    if (listen !== undefined) known.listen = listen
    return this.#promotionLines(known.asOf)
  }

  #promotionLines(asOf: Point | undefined): string[] {
    const { clock } = this.deps
    return promotionLines(
      this.record,
      this.#counters(),
      this.#address(),
      this.#rate.bytesPerSecond,
      clock.wallMs(),
      asOf,
    )
  }

  /** Which point of the copy's history that is: the moment that it might be promoted as of. */
  async findMoment(action: string, at: string): Promise<Point & { isWithinStep: boolean }> {
    this.#refuseMaster(action, 'its history ended with that')
    this.#opened()
    if (this.#history.find(action, at).isNewest && isUsable(this.#counters())) await this.#catchUp(action)
    return this.#history.locate(action, at)
  }

  #mayPromote(name: string, acceptLoss: boolean, isCurrent = false, asOf?: Point): void {
    const [sessionAddress, views] = [this.#address(), this.#views.size]
    mayPromote(name, { acceptLoss, isCurrent, sessionAddress, views, asOf })
  }

  /** It stays until the promotion is over, or has failed; unless it has expired just now. */
  async #holdMoment(name: string, { incarnation, sequence }: Point): Promise<void> {
    this.#holdHistory(true)
    await this.#history.locate(`promote ${name}`, `${incarnation}:${sequence}`)
  }

  #holdHistory(isHeld: boolean): void {
    if (this.#replica !== undefined) this.deps.addon.holdHistory(this.#replica.handle, isHeld)
  }

  /** The master, which may be anywhere, answers nobody any more when this resolves; or that is accepted. */
  async #outlive(name: string, force: boolean): Promise<string[]> {
    if (this.record.leaseMs === undefined) return []
    const leftMs = this.#leaseLeftMs()
    if (force)
      return leftMs === 0
        ? []
        : [`WARNING: the master may answer its clients for another ${formatDuration(leftMs)}: its lease is not over`]
    await this.#endSession('the standby is being promoted') // From here on none is granted.
    if (this.#leaseLeftMs() > 0) this.deps.log.warn(`group ${this.record.group}: ${this.#awaitedLease()}`)
    await this.#lease.over(() => {
      if (!this.#closing) return this.#leaseLeftMs()
      throw new OperationError('STOPPING', `promote ${name}: the daemon is stopping; it was not promoted`)
    })
    return leftMs === 0 ? [] : [`the lease of the master is over: this took ${formatDuration(leftMs)}`]
  }

  #leaseLeftMs(): number {
    const age = this.#replica === undefined ? -1 : this.deps.addon.leaseAgeMs(this.#replica.handle)
    return this.#lease.leftMs(this.record.leaseMs, age)
  }

  #awaitedLease(): string {
    return `it is being promoted, and waits until the lease of the master is over (${formatDuration(this.#leaseLeftMs())})`
  }

  #whyAway(): string {
    if (this.#lease.isAwaited) return this.#awaitedLease()
    if (this.record.writtenSince !== undefined) return writtenText(this.record)
    return this.#divergence === '' ? (this.#follow?.reason ?? '') : this.#divergence
  }

  /** From wherever a promotion stands to open images. Returns how many bytes were undone; undefined: none were to be. */
  async #becomeMaster(readable?: () => void): Promise<number | undefined> {
    this.#stopFollowing('promoted')
    const sealed = this.record.promotion?.sealed === true
    if (!sealed && this.#replica === undefined) this.#openReplica()
    const sealing = sealed ? undefined : await this.#seal()
    const tell = async (): Promise<void> => {
      readable?.()
      if (readable !== undefined && sealing?.replica !== undefined) await sleep(this.deps.clock, readersFirstMs)
    }
    await this.#reign.begin(sealing, tell)
    return sealing?.undoneBytes
  }

  /** Proven by the master itself: it has ceased to be one, and all it ever wrote is here. */
  #isCurrent(): boolean {
    const { final, origin } = this.record
    if (this.#isUntouchedOrigin()) return origin?.position !== undefined
    const counters = this.#counters()
    const here = { incarnation: counters['incarnation'] ?? 0n, sequence: counters['durable_sequence'] ?? 0n }
    return final !== undefined && isBefore(final, here)
  }

  /** The image is what this host's own reign left, and no record of another has come yet. */
  #isUntouchedOrigin(): boolean {
    return this.record.origin !== undefined && (this.#counters()['incarnation'] ?? 0n) === 0n
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

  #openReplica(): void {
    const { addon, store } = this.deps
    try {
      const opened = addon.openReplica({
        directory: store.groupDirectory(this.record.group),
        stagingBytesMax: this.deps.stagingBytes(),
        ...(this.#isRollingBack() ? heldHistory : historyOptions(this.deps.keptHistory)),
        volumes: this.record.volumes.map(volume => ({
          name: volume.name,
          imagePath: store.imagePath(volume),
          sizeBytes: volume.sizeBytes,
          create: !this.record.imagesMade && volume.device === undefined && this.record.origin === undefined,
        })),
      })
      const word = (name: string): (() => bigint) => this.deps.counters.word('replica', opened.counterPage, name)
      this.#replica = {
        ...{ handle: opened.replica, counterPage: opened.counterPage },
        ...{ received: word('received_sequence'), applied: word('applied_sequence') },
      }
      this.#error = ''
    } catch (error) {
      const failure = this.#openFailure(error)
      this.#error = failure.message
      throw failure
    }
    if (this.record.imagesMade) return
    this.record.imagesMade = true
    store.save(this.record)
  }

  /** A file of the copy that is not there, or not what it was, is named, with the way to begin anew. */
  #openFailure(error: unknown): NativeError | OperationError {
    const action = `open the standby's copy of group ${this.record.group}`
    const errno = errnoOf(error) ?? ''
    if (!['ENOENT', 'EINVAL', 'EBADMSG', 'EEXIST'].includes(errno)) return new NativeError(action, error)
    const what = error instanceof Error ? error.message : errno
    const anew = howToRemove(this.record, this.deps.store)
    return new OperationError(errno, `${action}: ${what}; put back what was there, or ${anew}`, { cause: error })
  }

  /** Everything durable is applied, or is shown as if it were, and not yet synced; or the images are what they were at the promotion's moment. */
  async #seal(): Promise<Sealing & { undoneBytes?: number }> {
    const { addon } = this.deps
    await this.#endSession('the standby was promoted')
    const { handle } = this.#opened()
    const virgin = this.#isUntouchedOrigin() ? this.record.origin?.position : undefined
    const isShared = this.record.volumes.every(({ device }) => device === undefined)
    // This host's own configuration of the group may say by partitions or files what is replicated: they are looked for
    // in the image itself. And what is undone has to be there.
    const asOf = this.record.promotion?.asOf
    const ahead = isShared && virgin === undefined && asOf === undefined && this.deps.own === undefined
    const fork = await this.#applied(addon.sealReplica(handle, sealMs, ahead))
    const counters = this.#counters()
    const applied = { incarnation: counters['incarnation'] ?? 0n, sequence: counters['applied_sequence'] ?? 0n }
    if (virgin === undefined) this.#noteWhole(counters)
    const undone = await this.#undo(handle)
    return {
      fork: virgin ?? fork ?? applied,
      ...undone,
      isShared,
      ...(fork === undefined ? {} : { replica: handle }),
      end: async () => {
        if (this.#replica?.handle !== handle) return
        await this.#applied(addon.drainReplica(handle, sealMs))
        this.#replica = undefined
        addon.closeReplica(handle)
      },
    }
  }

  async #undo(handle: number): Promise<{ fork?: Position; undoneBytes?: number }> {
    const { asOf } = this.record.promotion ?? {}
    if (asOf === undefined) return {}
    await this.#applied(this.deps.addon.drainReplica(handle, sealMs))
    const undoneBytes = await this.#rollback.run(handle, asOf, () => this.#closing)
    return { fork: { incarnation: asOf.incarnation, sequence: asOf.sequence }, undoneBytes }
  }

  async #applied<T>(done: Promise<T>): Promise<T> {
    try {
      return await done
    } catch (error) {
      throw new NativeError(
        `promote group ${this.record.group}: apply what the standby has received (run promote again)`,
        error,
      )
    }
  }

  #refuseStandby(name: string, action: string): void {
    if (this.record.promotion === undefined)
      throw new SafetyRefusal('IS_STANDBY', `${action} ${name}: this host is its standby; ask the daemon of its master`)
  }

  #refuseUnusable(action: string): void {
    if (this.#replica === undefined)
      throw new OperationError('NOT_OPEN', `${action}: the standby's copy is not open: ${this.#error}`)
    if (!isUsable(this.#counters())) throw unusable(action)
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

  /** Once the first step is complete, what the image was before is over, and it is a cut of the master's history. */
  #noteWhole(counters: Counters): void {
    const next = this.record.origin?.next
    if (next === undefined || !isUsable(counters)) return
    delete this.record.origin
    Object.assign(this.record, next)
    this.deps.store.save(this.record)
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

  async #drain(replica: OpenReplica, drainMs: number): Promise<boolean> {
    try {
      await this.deps.addon.drainReplica(replica.handle, drainMs)
      return true
    } catch (error) {
      this.deps.log.warn(
        `group ${this.record.group}: not everything could be applied (${describe(error)}); the rest stays in the log for the next start`,
      )
      return false
    }
  }

  /** What was acknowledged before is to be seen, also when the applier is behind (a master that has just died). */
  async #catchUp(action: string): Promise<void> {
    this.#refuseUnusable(action)
    try {
      await this.deps.addon.catchUpReplica(this.#opened().handle, viewWaitMs)
    } catch (error) {
      this.deps.log.warn(`${action}: it shows less than was received: ${describe(error)}`)
    }
  }

  #opened(): OpenReplica {
    if (this.#replica === undefined)
      throw new OperationError('NOT_OPEN', `group ${this.record.group}: the standby's copy is not open: ${this.#error}`)
    return this.#replica
  }

  /**
   * The images read as zeroes everywhere. A damaged log leaves no position either, but images that hold something: then
   * the phase is not fresh, and the master must compare.
   */
  #isFresh(counters: Counters): boolean {
    if (this.record.origin !== undefined) return false
    return counters['phase'] === phase.fresh && this.record.volumes.every(volume => volume.device === undefined)
  }

  #counters(): Counters {
    return this.#replica === undefined ? {} : this.deps.counters.read('replica', this.#replica.counterPage)
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

/** What there is stays as it is, whatever is kept of others. */
const heldHistory = { historyBytesMax: Number.MAX_SAFE_INTEGER, holdHistory: true }

const pointOf = ({ incarnation, sequence, timeNs }: Point): Point => ({ incarnation, sequence, timeNs })

function historyOptions(limits: HistoryLimits | undefined): { historyAgeMs?: number; historyBytesMax?: number } {
  return limits === undefined ? {} : { historyAgeMs: limits.ageMs, historyBytesMax: limits.bytes }
}
