/**
 * StandbyGroup: one group in the role of standby: its replica in the engine, its session, its views and its promotion.
 *
 * Guarantees: one session at a time feeds the replica, and the next is routed only after the one before has ended; the
 * welcome is sent after the routing, so that no record is lost between; once a promotion is on disk, no record is
 * taken any more, and once `sealed` is, the log is never replayed onto the images again.
 * Does not: judge hellos (hello-judgement.ts), or serve NBD.
 */
import { type Clock, sleep } from '../core/clock.js'
import { LagSampler } from '../core/lag-sampler.js'
import { describe, errnoOf, NativeError, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { Rate } from '../core/rate.js'
import type { VolumeState, VolumeStatus } from '../core/status-types.js'
import { version } from '../core/version.js'
import type { Addon } from '../native/binding.js'
import type { CounterReader, Counters } from '../native/counters.js'
import { encodeWelcome, type Hello } from '../transport/messages.js'
import type { Session } from '../transport/transport.js'
import { howToRemove } from './hello-judgement.js'
import { imageGroup, type OpenVolumes } from './open-volumes.js'
import { mayPromote, promotedStatus, promotionLines } from './promotion.js'
import type { ReplicaRecord, ReplicaVolume } from './replica-file.js'
import { isUsable, phase, standbyState, standbyVolumeStatus } from './standby-status.js'
import type { Store } from './store.js'
import { type StandbyView, unusable, Views, viewWaitMs } from './views.js'

export interface GroupDeps {
  addon: Addon
  counters: CounterReader
  clock: Clock
  log: Logger
  store: Store
  random64: () => bigint
}

/** A session with what its end can be waited for. */
export interface LiveSession {
  session: Session
  ended: Promise<void>
}

export interface PromoteOptions {
  acceptLoss: boolean
  /** Where the images are to be served from now on, also after a restart. */
  listen?: string
}

interface OpenReplica {
  handle: number
  counterPage: number
}

const sessionEndMs = 5_000
const sealMs = 60_000

export class StandbyGroup {
  #replica: OpenReplica | undefined
  #live: LiveSession | undefined
  #error = ''
  #promoted: OpenVolumes | undefined
  readonly #views: Views
  readonly #lag = new LagSampler()
  readonly #rate = new Rate(10_000)
  #since: { state: VolumeState; ms: number } | undefined
  #closing = false
  /** Hellos, promotion and closing, one after the other. */
  #queue: Promise<unknown> = Promise.resolve()

  constructor(
    readonly record: ReplicaRecord,
    private readonly deps: GroupDeps,
  ) {
    this.#views = new Views(deps)
  }

  /** At start, and before the first session of a new group. An error is kept for the status and thrown. */
  open(): Promise<void> {
    return this.#exclusively(() => this.#open())
  }

  /** openReplica().counterPage; undefined while it is not open. */
  get replicaPage(): number | undefined {
    return this.#replica?.counterPage
  }

  get replicaHandle(): number | undefined {
    return this.#replica?.handle
  }

  /** What is served as a master since the promotion. */
  get promoted(): OpenVolumes | undefined {
    return this.#promoted
  }

  /** Routes the session to the replica and welcomes it. Another session of the group is closed first. */
  welcome(live: LiveSession, hello: Hello): Promise<void> {
    return this.#exclusively(async () => {
      if (this.record.promotion !== undefined || this.#closing)
        throw new OperationError('STOPPING', `group ${this.record.group} takes no records any more`)
      await this.#replace(live)
      await this.#open()
      this.#noteHello(hello)
      const { addon } = this.deps
      const { handle, counterPage } = this.#opened()
      const position = addon.attachReplica(handle, live.session.id)
      this.#live = live
      void live.ended.then(() => {
        if (this.#live === live) this.#live = undefined
      })
      const counters = this.deps.counters.read('replica', counterPage)
      const untouched = position.incarnation === 0n
      live.session.send(
        encodeWelcome({
          protocol: hello.protocol,
          program: version,
          replicaId: this.record.replicaId,
          incarnation: position.incarnation,
          received: position.received,
          fresh: untouched && this.#isFresh(counters),
          initial: untouched || !isUsable(counters),
        }),
      )
      this.deps.log.info(
        `group ${this.record.group}: session with master ${this.record.masterId.slice(0, 16)} at ${live.session.address}`,
      )
    })
  }

  failed(message: string): void {
    this.#error = message
    this.deps.log.error(`group ${this.record.group}: ${message}`)
  }

  /** Several times a second. */
  sample(): void {
    const counters = this.#counters()
    const { clock } = this.deps
    this.#lag.observe(clock.monotonicMs(), counters['received_sequence'] ?? 0n, counters['applied_sequence'] ?? 0n)
    this.#rate.observe(clock.monotonicMs(), Number(counters['received_bytes'] ?? 0n))
    if (counters['last_errno'] === 0n && this.#replica !== undefined) this.#error = ''
    const { state } = standbyState({
      counters,
      sessionAddress: this.#address(),
      error: this.#error,
      nowMs: clock.wallMs(),
    })
    if (state !== this.#since?.state) this.#since = { state, ms: clock.wallMs() }
  }

  status(): VolumeStatus[] {
    if (this.record.promotion !== undefined)
      return promotedStatus(this.record, this.record.promotion, this.#promoted, this.deps.counters)
    this.sample()
    const { clock } = this.deps
    const counters = this.#counters()
    const facts = {
      record: this.record,
      counters,
      sessionAddress: this.#address(),
      error: this.#error,
      sinceMs: this.#since?.ms ?? clock.wallMs(),
      nowMs: clock.wallMs(),
      lagSeconds: this.#lag.ageMs(clock.monotonicMs(), counters['applied_sequence'] ?? 0n) / 1000,
    }
    return this.record.volumes.map(volume => standbyVolumeStatus(facts, volume))
  }

  /** A frozen copy of a volume, with all that was received before. Waits for that, and for a step, at most 30 s. */
  async view(volume: ReplicaVolume, writable: boolean): Promise<StandbyView> {
    if (this.record.promotion !== undefined) {
      throw new OperationError(
        'PROMOTED',
        `export ${volume.name}: it was promoted and is a master's volume now; connect to its own export`,
      )
    }
    const action = `export ${volume.name}`
    const deadlineMs = this.deps.clock.monotonicMs() + viewWaitMs
    await this.#catchUp(action)
    return this.#views.open(volume.name, this.record.volumes.indexOf(volume), writable, deadlineMs, () => {
      this.#refuseUnusable(action)
      return this.#opened().handle
    })
  }

  /**
   * 1. the promotion is on disk: the old master is refused from here on  2. the session ends, everything durable is
   * applied  3. `sealed` is on disk: the log is done with  4. the images are opened for clients.
   * After a crash the next start goes on behind the last step that is on disk.
   */
  promote(name: string, options: PromoteOptions): Promise<string[]> {
    return this.#exclusively(async () => {
      const { clock, store, random64 } = this.deps
      const known = this.record.promotion
      if (known === undefined) {
        this.#refuseUnusable(`promote ${name}`)
        mayPromote(name, options.acceptLoss, this.#address(), this.#views.size)
      }
      const lines = promotionLines(
        this.record,
        this.#counters(),
        this.#address(),
        this.#rate.bytesPerSecond,
        clock.wallMs(),
      )
      const listen = options.listen ?? known?.listen
      this.record.promotion = {
        time: known?.time ?? new Date(clock.wallMs()).toISOString(),
        generation: known?.generation ?? random64().toString(16).padStart(16, '0'),
        sealed: known?.sealed ?? false,
        incarnation: known?.incarnation ?? 0n,
        ...(listen === undefined ? {} : { listen }),
      }
      store.save(this.record)
      if (known !== undefined && this.#promoted !== undefined) return [`${name} was promoted already, at ${known.time}`]
      await this.#becomeMaster()
      return lines
    })
  }

  /** True: everything that was received and committed is in the images. */
  close(drainMs: number): Promise<boolean> {
    this.#closing = true
    return this.#exclusively(async () => {
      await this.#endSession('the standby is stopping')
      await this.#views.close()
      await this.#promoted?.close()
      this.#promoted = undefined
      const replica = this.#replica
      if (replica === undefined) return true
      const drained = await this.#drain(replica, drainMs)
      this.#replica = undefined
      this.deps.addon.closeReplica(replica.handle)
      return drained
    })
  }

  async #open(): Promise<void> {
    if (this.#replica !== undefined || this.#promoted !== undefined) return
    if (this.record.promotion === undefined) this.#openReplica()
    else await this.#becomeMaster()
  }

  /** From wherever a promotion stands to open images. */
  async #becomeMaster(): Promise<void> {
    const sealed = this.record.promotion?.sealed === true
    if (!sealed && this.#replica === undefined) this.#openReplica()
    if (!sealed) await this.#seal()
    this.#serve()
  }

  #openReplica(): void {
    const { addon, store } = this.deps
    try {
      const opened = addon.openReplica({
        directory: store.groupDirectory(this.record.group),
        volumes: this.record.volumes.map(volume => ({
          name: volume.name,
          imagePath: store.imagePath(volume),
          sizeBytes: volume.sizeBytes,
          create: !this.record.imagesMade && volume.device === undefined,
        })),
      })
      this.#replica = { handle: opened.replica, counterPage: opened.counterPage }
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

  /** Everything durable is applied, and the replica is closed for good. */
  async #seal(): Promise<void> {
    const { addon, store } = this.deps
    const { promotion } = this.record
    if (promotion === undefined) return
    await this.#endSession('the standby was promoted')
    const { handle } = this.#opened()
    try {
      await addon.sealReplica(handle, sealMs)
    } catch (error) {
      throw new NativeError(
        `promote group ${this.record.group}: apply what the standby has received (run promote again)`,
        error,
      )
    }
    this.#replica = undefined
    addon.closeReplica(handle)
    promotion.sealed = true
    store.save(this.record)
  }

  #serve(): void {
    const { addon, store, random64 } = this.deps
    const { promotion } = this.record
    if (promotion === undefined) return
    promotion.incarnation = random64()
    store.save(this.record)
    const volumes = this.record.volumes.map(volume => ({ name: volume.name, path: store.imagePath(volume) }))
    this.#promoted = imageGroup(addon, this.record.group, volumes, promotion.incarnation)
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

  #noteHello({ durability, generation }: Hello): void {
    if (this.record.durability === durability && this.record.generation === generation) return
    this.record.durability = durability
    this.record.generation = generation
    this.deps.store.save(this.record)
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
