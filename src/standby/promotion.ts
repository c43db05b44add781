/** Whether a copy may be promoted, and what people are told of it, when it is made and afterwards. */
import { OperationError, SafetyRefusal } from '../core/errors.js'
import type { VolumeStatus } from '../core/status-types.js'
import { formatSize } from '../core/units.js'
import type { Counters } from '../native/counters.js'
import type { Promotion, ReplicaRecord } from './replica-file.js'
import { lastHeard, phase } from './standby-status.js'

/** Throws when it may not. `views`: how many exports of the group are open; `sessionAddress`: '' without a session. */
export function mayPromote(name: string, acceptLoss: boolean, sessionAddress: string, views: number): void {
  if (views > 0) throw new OperationError('BUSY', `promote ${name}: the copy is being exported; end the export first`)
  if (acceptLoss) return
  const why =
    sessionAddress === ''
      ? 'the master is not connected, so it may have written more than is here'
      : 'the master is connected and may be writing'
  throw new SafetyRefusal(
    'NOT_CURRENT',
    `promote ${name}: ${why}; to go on all the same, and lose that, say --accept-loss`,
  )
}

/** `bytesPerSecond`: what the master had been writing until it was last heard. */
export function promotionLines(
  record: ReplicaRecord,
  counters: Counters,
  sessionAddress: string,
  bytesPerSecond: number,
  nowMs: number,
): string[] {
  const names = record.volumes.map(volume => volume.name).join(', ')
  const get = (name: string): bigint => counters[name] ?? 0n
  const heard = lastHeard(counters, nowMs)
  const lines = [
    `${names}: promoted at sequence ${get('durable_sequence')} of incarnation ${get('incarnation')}; clients may write to it`,
  ]
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
  if (get('phase') >= phase.staging) lines.push('a step was not complete: the copy is the cut before it')
  return lines
}

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

/** A promoted volume whose master could not be opened. */
export function notOpenStatus(record: ReplicaRecord, promotion: Promotion): VolumeStatus[] {
  return record.volumes.map(volume => ({
    name: volume.name,
    group: record.group,
    role: 'master',
    state: 'alone',
    reason: `promoted at ${promotion.time}; its images are not open: the log says why; promote it again`,
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
