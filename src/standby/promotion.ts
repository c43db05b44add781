/** Whether a copy may be promoted, and what people are told of it, when it is made and afterwards. */
import { OperationError, SafetyRefusal } from '../core/errors.js'
import type { VolumeStatus } from '../core/status-types.js'
import { formatSize } from '../core/units.js'
import type { CounterReader, Counters } from '../native/counters.js'
import type { OpenVolumes } from './open-volumes.js'
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

/** A promoted volume is a master's without a standby. */
export function promotedStatus(
  record: ReplicaRecord,
  promotion: Promotion,
  open: OpenVolumes | undefined,
  counters: CounterReader,
): VolumeStatus[] {
  const group = open === undefined ? {} : counters.read('group', open.counterPage)
  const written = String(group['written_sequence'] ?? 0n)
  return record.volumes.map((volume, index) => {
    const page = open?.exported[index]?.counterPage
    const dirtyBytes = page === undefined ? 0n : (counters.read('volume', page)['dirty_bytes'] ?? 0n)
    return {
      name: volume.name,
      group: record.group,
      role: 'master',
      state: 'alone',
      reason: `promoted at ${promotion.time}${open === undefined ? '; its images are not open' : ''}${promotion.listen === undefined ? '; not served: promote it again with --listen' : ''}`,
      since: promotion.time,
      usable: promotion.sealed,
      protected: false,
      durability: 'flush',
      generation: promotion.generation,
      written,
      sent: '0',
      received: '0',
      durable: '0',
      committed: '0',
      applied: '0',
      lagBytes: 0,
      lagSeconds: 0,
      dirtyBytes: Number(dirtyBytes),
      sizeBytes: Number(volume.sizeBytes),
      logBytes: 0,
      logMaxBytes: 0,
      resync: null,
      lastVerify: null,
      peers: [],
    }
  })
}
