/**
 * A master's lease: whether one is needed, and what people are told of it. The engine asks for it and obeys it.
 *
 *   configured            needed from the start on, so that a master that was replaced while it was away answers nobody;
 *                         and when a host that has given its reign away takes it back
 *   promoted              not before a standby is asked for the first time: until then nobody has a copy to promote
 *   hello, first of those needed from before it is sent on, and held as if granted then: the standby counts from its
 *                         welcome, later. Refused: as before. Without any answer: needed, for it may have been welcomed
 *
 * "Needed" is on disk before it is relied on; a crash between leaves it needed.
 */
import { OperationError, SafetyRefusal } from '../core/errors.js'
import { refusePause, usableMs } from '../core/lease.js'
import type { Logger } from '../core/log.js'
import type { LeaseStatus } from '../core/status-types.js'
import { formatDuration } from '../core/units.js'
import type { Addon, LeaseSpec } from '../native/binding.js'
import type { Welcome } from '../transport/messages.js'
import type { GroupRecord } from './group-file.js'

export interface HeldLeaseOptions {
  addon: Pick<Addon, 'lease' | 'startLease' | 'waiveLease'>
  /** Of the engine. */
  group: number
  name: string
  /** Undefined: there is no lease. */
  leaseMs: number | undefined
  record: GroupRecord
  save: () => void
  log: Logger
}

export class HeldLease {
  /** The first hello since it was waived has had no answer yet. */
  #isFirst = false
  #isClosed = false

  constructor(private readonly options: HeldLeaseOptions) {
    const { leaseMs, log } = options
    if (leaseMs !== undefined && this.reason() !== '')
      log.info(`clients are not answered before the standby has granted a lease (${formatDuration(leaseMs)})`)
  }

  /** Before each hello. */
  asks(): void {
    const { addon, group, leaseMs, record, save } = this.options
    this.#isFirst = leaseMs !== undefined && record.leaseWaived === true
    if (!this.#isFirst) return
    delete record.leaseWaived
    save()
    addon.startLease(group)
  }

  /** Throws when the standby does not know what we need of it. */
  welcomed({ leaseMs, program }: Welcome): void {
    this.#isFirst = false
    const wanted = this.options.leaseMs ?? 0
    if (wanted !== leaseMs)
      throw new OperationError(
        'NO_LEASE',
        `the standby (understudy ${program}) grants no lease; upgrade it, or start this master without --lease`,
      )
  }

  /** Whoever has refused, and was asked for the first time, has no copy of ours that could be promoted; or it was already. */
  refused(code: string): void {
    if (this.#isFirst && code !== 'promoted') this.#waive()
    this.#isFirst = false
  }

  /** Somebody has made sure that the standby is gone for good. */
  giveUp(isConnected: boolean): string {
    const { name, leaseMs } = this.options
    const isMaster = `promote ${name}: this host is its master`
    if (isConnected) throw new SafetyRefusal('IS_MASTER', `${isMaster}, and its standby is there`)
    if (leaseMs === undefined || this.reason() === '')
      throw new SafetyRefusal('IS_MASTER', `${isMaster}, and answers its clients`)
    this.#waive()
    return `${name}: goes on without a lease until a standby is there again; if the other side was promoted, both answer now`
  }

  refusePause(): void {
    const { name, leaseMs } = this.options
    if (leaseMs !== undefined && this.#isNeeded) refusePause(name, leaseMs)
  }

  /** The engine says so. */
  changed(held: boolean): void {
    const { log, leaseMs = 0 } = this.options
    if (held) log.info('a lease is held: clients are answered')
    else
      log.warn(`the lease has run out (${formatDuration(leaseMs)}): clients wait until the standby grants another one`)
  }

  /** The engine's group is about to be no more. */
  close(): void {
    this.#isClosed = true
  }

  status(): LeaseStatus | undefined {
    const { leaseMs } = this.options
    if (leaseMs === undefined) return undefined
    return { seconds: leaseMs / 1000, secondsLeft: this.#read().leftMs / 1000, inForce: this.#isNeeded }
  }

  /** Why clients are not answered; '' when they are. */
  reason(): string {
    const { leaseMs } = this.options
    if (leaseMs === undefined || !this.#isNeeded || this.#isClosed) return ''
    const { leftMs, untilNs } = this.#read()
    if (leftMs > 0) return ''
    const what = untilNs === 0n ? 'there is no lease yet' : 'the lease has run out'
    return `clients wait: ${what} (${formatDuration(leaseMs)})`
  }

  /** For another process of this host that goes on as the master. */
  untilNs(): bigint | undefined {
    return this.options.leaseMs === undefined ? undefined : this.#read().untilNs
  }

  #read(): ReturnType<Addon['lease']> {
    const { addon, group } = this.options
    return this.#isClosed ? { untilNs: 0n, leftMs: 0 } : addon.lease(group)
  }

  get #isNeeded(): boolean {
    return this.options.record.leaseWaived !== true
  }

  #waive(): void {
    const { addon, group, record, save } = this.options
    record.leaseWaived = true
    save()
    addon.waiveLease(group)
  }
}

export function leaseSpec(leaseMs: number | undefined, isWaived: boolean, untilNs = 0n): { lease?: LeaseSpec } {
  if (leaseMs === undefined) return {}
  return { lease: { lengthMs: leaseMs, usableMs: usableMs(leaseMs), required: !isWaived, untilNs } }
}
