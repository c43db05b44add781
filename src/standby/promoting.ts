/**
 * The way of a group from its copy to a master's volumes, and on after a crash:
 *   1. the promotion is on disk: the old master is refused from here on  2. the session ends, and no record is taken
 *   any more  3. the images may be read, with what is durable and not applied  4. it is, they are synced, and `sealed` is
 *   on disk: the log is done with  5. clients may write.
 * The next start goes on behind the last step that is on disk.
 * As of an earlier moment: it is found first, and its exact position is in 1; between 2 and 3 the images are synced, and
 * what was written since is undone. Until 4 the history stays as it is, so that all of that can be done again.
 *
 * Guarantees: what is not on disk has not happened; once `sealed` is, the log is never replayed onto the images again.
 * Does not: judge (promotion.ts), or take its turn among the group's tasks: its caller does.
 */
import { type Clock, sleep } from '../core/clock.js'
import type { GroupConfig } from '../core/config-types.js'
import { NativeError, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { isBefore, type Position } from '../core/reigns.js'
import { formatDuration } from '../core/units.js'
import type { Addon, Point } from '../native/binding.js'
import type { GrantedLease } from './granted-lease.js'
import type { GroupHistory } from './history.js'
import { mayPromote, promotedAlready, promotionLines, refuseOther, undoneLine } from './promotion.js'
import type { Reign, Sealing } from './reign.js'
import { positionOf, type Replica } from './replica.js'
import type { Promotion, ReplicaRecord } from './replica-file.js'
import { Rollback } from './rollback.js'
import type { Store } from './store.js'

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

interface PromotingDeps {
  addon: Addon
  clock: Clock
  log: Logger
  store: Store
  random64: () => bigint
  /** This host's own configuration of the group: it was its master first. */
  own: GroupConfig | undefined
}

/** Of the group. */
interface Parts {
  replica: Replica
  history: GroupHistory
  reign: Reign
  lease: GrantedLease
  /** How long the master may still answer its clients. */
  leaseLeftMs: () => number
  /** '' without a session. */
  sessionAddress: () => string
  /** Resolves when the engine has let go of the session. */
  endSession: (text: string) => Promise<void>
  stopFollowing: (text: string) => void
  /** Of views that are open: what is said of each. */
  holders: () => string[]
  /** What the master has been writing lately. */
  bytesPerSecond: () => number
  isClosing: () => boolean
}

const sealMs = 60_000
/** Who waits to read is let in before replay takes the processors and the disk again. */
const readersFirstMs = 30

export class Promoting {
  readonly #rollback: Rollback

  constructor(
    private readonly record: ReplicaRecord,
    private readonly deps: PromotingDeps,
    private readonly parts: Parts,
  ) {
    this.#rollback = new Rollback(record.group, deps)
  }

  /** How far the undoing of what was written since is, for people; '' when it is not under way. */
  get rollbackText(): string {
    return this.#rollback.text
  }

  /** The images are to be what they were at a moment, and are not known to be. */
  get isRollingBack(): boolean {
    const { promotion } = this.record
    return promotion?.asOf !== undefined && !promotion.sealed
  }

  /** Returns lines for people. */
  async promote(name: string, options: PromoteOptions): Promise<string[]> {
    const { replica, reign } = this.parts
    const known = this.record.promotion
    const before = known && { ...known }
    replica.standAside(true)
    let lines: string[]
    try {
      lines = known === undefined ? await this.#begin(name, options) : await this.#again(name, options, known)
      this.deps.store.save(this.record)
    } catch (error) {
      replica.standAside(false)
      this.#takeBack(before)
      throw error
    }
    if (reign.master !== undefined) return [`${name} was promoted already, at ${known?.time ?? ''}`]
    const undone = await this.becomeMaster(options.readable)
    return undone === undefined ? lines : [...lines, undoneLine(undone)]
  }

  /** What did not get on disk has not happened, and whatever is saved next must not make it happen. */
  #takeBack(before: Promotion | undefined): void {
    const { promotion } = this.record
    if (before !== undefined) this.record.promotion = before
    else delete this.record.promotion
    if (before === undefined && promotion?.asOf !== undefined) this.parts.replica.holdHistory(false)
  }

  /** What is to be on disk before anything is done. Nothing has changed when it throws. */
  async #begin(name: string, { at = '', acceptLoss, force, listen }: PromoteOptions): Promise<string[]> {
    const { clock, random64 } = this.deps
    const { replica } = this.parts
    const asOf = at === '' ? undefined : await this.findMoment(`promote ${name}`, at)
    if (asOf === undefined && !replica.isUntouchedOrigin) replica.refuseUnusable(`promote ${name}`)
    const isCurrent = this.#isCurrent()
    this.#mayPromote(name, acceptLoss, isCurrent, asOf)
    const lines = this.#lines(asOf)
    try {
      if (asOf !== undefined) await this.#holdMoment(name, asOf)
      if (!isCurrent) lines.push(...(await this.#outlive(name, force)))
      this.#mayPromote(name, true) // An export may have begun.
    } catch (error) {
      if (asOf !== undefined) replica.holdHistory(false)
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
    const { reign, history } = this.parts
    const isOver = reign.master !== undefined
    if (isOver && (at !== '' || (listen ?? known.listen) === known.listen)) throw promotedAlready(name, known)
    if (at !== '') refuseOther(name, known, this.isRollingBack ? await history.locate(`promote ${name}`, at) : null)
    if (listen !== undefined) known.listen = listen
    return this.#lines(known.asOf)
  }

  #lines(asOf: Point | undefined): string[] {
    const { replica, sessionAddress, bytesPerSecond } = this.parts
    const nowMs = this.deps.clock.wallMs()
    return promotionLines(this.record, replica.counters(), sessionAddress(), bytesPerSecond(), nowMs, asOf)
  }

  /** Which point of the copy's history that is: the moment that it might be promoted as of. */
  async findMoment(action: string, at: string): Promise<Point & { isWithinStep: boolean }> {
    const { replica, history } = this.parts
    replica.opened()
    if (history.find(action, at).isNewest && replica.isUsable) await replica.catchUp(action)
    return history.locate(action, at)
  }

  #mayPromote(name: string, acceptLoss: boolean, isCurrent = false, asOf?: Point): void {
    const [sessionAddress, holders] = [this.parts.sessionAddress(), this.parts.holders()]
    mayPromote(name, { acceptLoss, isCurrent, sessionAddress, holders, asOf })
  }

  /** It stays until the promotion is over, or has failed; unless it has expired just now. */
  async #holdMoment(name: string, { incarnation, sequence }: Point): Promise<void> {
    this.parts.replica.holdHistory(true)
    await this.parts.history.locate(`promote ${name}`, `${incarnation}:${sequence}`)
  }

  /** The master, which may be anywhere, answers nobody any more when this resolves; or that is accepted. */
  async #outlive(name: string, force: boolean): Promise<string[]> {
    if (this.record.leaseMs === undefined) return []
    const { lease, leaseLeftMs, endSession, isClosing } = this.parts
    const leftMs = leaseLeftMs()
    if (force)
      return leftMs === 0
        ? []
        : [`WARNING: the master may answer its clients for another ${formatDuration(leftMs)}: its lease is not over`]
    await endSession('the standby is being promoted') // From here on none is granted.
    if (leaseLeftMs() > 0) this.deps.log.warn(`group ${this.record.group}: ${this.awaitedLease()}`)
    await lease.over(() => {
      if (!isClosing()) return leaseLeftMs()
      throw new OperationError('STOPPING', `promote ${name}: the daemon is stopping; it was not promoted`)
    })
    return leftMs === 0 ? [] : [`the lease of the master is over: this took ${formatDuration(leftMs)}`]
  }

  /** For people, while the end of the lease is waited for. */
  awaitedLease(): string {
    return `it is being promoted, and waits until the lease of the master is over (${formatDuration(this.parts.leaseLeftMs())})`
  }

  /** Proven by the master itself: it has ceased to be one, and all it ever wrote is here. */
  #isCurrent(): boolean {
    const { final, origin } = this.record
    const { replica } = this.parts
    if (replica.isUntouchedOrigin) return origin?.position !== undefined
    return final !== undefined && isBefore(final, positionOf(replica.counters(), 'durable_sequence'))
  }

  /** From wherever a promotion stands to open images. Returns how many bytes were undone; undefined: none were to be. */
  async becomeMaster(readable?: () => void): Promise<number | undefined> {
    const { replica, reign, stopFollowing } = this.parts
    stopFollowing('promoted')
    const sealed = this.record.promotion?.sealed === true
    if (!sealed && replica.handle === undefined) replica.open(this.isRollingBack)
    const sealing = sealed ? undefined : await this.#seal()
    const tell = async (): Promise<void> => {
      readable?.()
      if (readable !== undefined && sealing?.replica !== undefined) await sleep(this.deps.clock, readersFirstMs)
    }
    await reign.begin(sealing, tell)
    return sealing?.undoneBytes
  }

  /** Everything durable is applied, or is shown as if it were, and not yet synced; or the images are what they were at the promotion's moment. */
  async #seal(): Promise<Sealing & { undoneBytes?: number }> {
    const { addon } = this.deps
    const { replica, endSession } = this.parts
    await endSession('the standby was promoted')
    const handle = replica.opened()
    const virgin = replica.isUntouchedOrigin ? this.record.origin?.position : undefined
    const isShared = this.record.volumes.every(({ device }) => device === undefined)
    // This host's own configuration of the group may say by partitions or files what is replicated: they are looked for
    // in the image itself. And what is undone has to be there.
    const asOf = this.record.promotion?.asOf
    const ahead = isShared && virgin === undefined && asOf === undefined && this.deps.own === undefined
    const fork = await this.#applied(addon.sealReplica(handle, sealMs, ahead))
    const applied = positionOf(replica.counters(), 'applied_sequence')
    if (virgin === undefined) replica.noteWhole()
    const undone = await this.#undo(handle)
    return {
      fork: virgin ?? fork ?? applied,
      ...undone,
      isShared,
      ...(fork === undefined ? {} : { replica: handle }),
      end: async () => {
        if (replica.handle !== handle) return
        await this.#applied(addon.drainReplica(handle, sealMs))
        replica.close()
      },
    }
  }

  async #undo(handle: number): Promise<{ fork?: Position; undoneBytes?: number }> {
    const { asOf } = this.record.promotion ?? {}
    if (asOf === undefined) return {}
    await this.#applied(this.deps.addon.drainReplica(handle, sealMs))
    const undoneBytes = await this.#rollback.run(handle, asOf, this.parts.isClosing)
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
}

const pointOf = ({ incarnation, sequence, timeNs }: Point): Point => ({ incarnation, sequence, timeNs })
