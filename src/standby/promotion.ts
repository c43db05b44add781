/** Whether a copy may be promoted, and what people are told of it, when it is made and afterwards. */
import { OperationError, SafetyRefusal } from '../core/errors.js'
import type { VolumeStatus } from '../core/status-types.js'
import { formatSize } from '../core/units.js'
import type { Point } from '../native/binding.js'
import type { Counters } from '../native/counters.js'
import { momentText } from './history.js'
import type { Promotion, ReplicaRecord } from './replica-file.js'
import { lastHeard, phase } from './standby-status.js'

interface PromotionFacts {
  acceptLoss: boolean
  /** It is proven that all the master ever wrote is here. */
  isCurrent: boolean
  /** '' without a session. */
  sessionAddress: string
  /** What has the copy open, and how to end that. */
  holders: readonly string[]
  /** Not as it is now. */
  asOf: Point | undefined
}

/** Throws when it may not. */
export function mayPromote(name: string, facts: PromotionFacts): void {
  const { acceptLoss, isCurrent, sessionAddress, holders, asOf } = facts
  if (holders.length > 0) throw new OperationError('BUSY', `promote ${name}: ${holders.join('; and ')}`)
  if (acceptLoss) return
  if (asOf !== undefined)
    throw new SafetyRefusal(
      'NOT_CURRENT',
      `promote ${name}: what was written after ${momentText(asOf)} is thrown away; to go on all the same, say --accept-loss`,
    )
  if (isCurrent) return
  const why =
    sessionAddress === ''
      ? 'the master is not connected, so it may have written more than is here'
      : 'the master is connected and may be writing'
  throw new SafetyRefusal(
    'NOT_CURRENT',
    `promote ${name}: ${why}; to go on all the same, and lose that, say --accept-loss`,
  )
}

/** Of one that is not over yet. `asked`: the moment of another one; null: it has none that could be the same. */
export function refuseOther(name: string, known: Promotion, asked: Point | null): void {
  const { asOf } = known
  if (asked !== null && asOf?.incarnation === asked.incarnation && asOf.sequence === asked.sequence) return
  throw new SafetyRefusal(
    'IS_PROMOTED',
    `promote ${name}: it is being promoted since ${known.time}${asOfText(known)}; that goes on, and nothing else: 'understudy promote ${name}'`,
  )
}

/** Of one that is over. */
export function promotedAlready(name: string, known: Promotion): SafetyRefusal {
  return new SafetyRefusal(
    'IS_MASTER',
    `promote ${name}: it was promoted already, at ${known.time}${asOfText(known)}, and is the master`,
  )
}

/** ", as of 2026-11-29T08:15:00.123Z (17:4711)"; '' of one that has everything. */
export const asOfText = ({ asOf }: Promotion): string => (asOf === undefined ? '' : `, as of ${momentText(asOf)}`)

/** `bytesPerSecond`: what the master had been writing until it was last heard. */
export function promotionLines(
  record: ReplicaRecord,
  counters: Counters,
  sessionAddress: string,
  bytesPerSecond: number,
  nowMs: number,
  asOf?: Point & { isWithinStep?: boolean },
): string[] {
  const names = record.volumes.map(volume => volume.name).join(', ')
  const get = (name: string): bigint => counters[name] ?? 0n
  const heard = lastHeard(counters, nowMs)
  const where =
    asOf === undefined
      ? `at sequence ${get('durable_sequence')} of incarnation ${get('incarnation')}`
      : `as of ${momentText(asOf)}`
  const lines = [`${names}: promoted ${where}; clients may write to it`]
  if (asOf?.isWithinStep === true)
    lines.push('what was asked for is within a resynchronisation: it is the cut before it')
  lines.push(
    heard === ''
      ? 'the master has not been heard since this daemon started'
      : `the master was${heard.replace(/^,/, '')}`,
  )
  if (bytesPerSecond >= 1)
    lines.push(`until then it wrote about ${formatSize(bytesPerSecond)} a second; what it wrote since is not here`)
  if (sessionAddress !== '')
    lines.push(
      `WARNING: the master at ${sessionAddress} was still connected; make sure that no client writes to it any more`,
    )
  if (asOf === undefined && get('phase') >= phase.staging)
    lines.push('a step was not complete: the copy is the cut before it')
  return lines
}

export const undoneLine = (bytes: number): string =>
  `${formatSize(bytes)} that had been written over since are as they were then`

export function abdicationLines(name: string, takeOver: boolean, noted: boolean): string[] {
  if (!takeOver) {
    const knows = noted ? 'and knows it' : 'and has not said that it knows it'
    return [
      `${name}: this host is not its master any more; the other side has everything ${knows}`,
      `understudy promote ${name}, on either side, makes that side the master`,
    ]
  }
  return noted
    ? [`${name}: the other side has everything and takes over`]
    : [
        `${name}: the other side has everything and was asked to take over, but has not answered; its status says what it did`,
      ]
}

/** A promoted volume whose master is not open. `rollback`: how far that is; '' when it is not under way. */
export function notOpenStatus(record: ReplicaRecord, promotion: Promotion, rollback: string): VolumeStatus[] {
  const why =
    rollback === ''
      ? 'its images are not open: the log says why; promote it again'
      : `it is not served yet: ${rollback}`
  return record.volumes.map(volume => ({
    name: volume.name,
    group: record.group,
    role: 'master',
    state: 'alone',
    reason: `promoted at ${promotion.time}${asOfText(promotion)}; ${why}`,
    since: promotion.time,
    usable: promotion.sealed,
    protected: false,
    durability: 'flush',
    generation: promotion.generation,
    written: '0',
    sent: '0',
    received: '0',
    durable: '0',
    committed: '0',
    applied: '0',
    lagBytes: 0,
    lagSeconds: 0,
    dirtyBytes: 0,
    sizeBytes: Number(volume.sizeBytes),
    logBytes: 0,
    logMaxBytes: 0,
    resync: null,
    lastVerify: null,
    peers: [],
  }))
}
