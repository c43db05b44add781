/** The status document as a table for people: one line a volume, what needs saying beneath it. */
import type { FilterStatus, HistoryStatus, ResyncStatus, StatusDocument, VolumeStatus } from '../core/status-types.js'
import { formatDuration, formatSize } from '../core/units.js'
import { type Columns, table } from './table.js'
import { positionText, shortTime } from './timeline.js'

const columns: Columns<VolumeStatus> = [
  ['VOLUME', volume => volume.name],
  ['GROUP', volume => (volume.group === volume.name ? '-' : volume.group)],
  ['ROLE', volume => volume.role],
  ['STATE', volume => volume.state],
  ['PROTECTED', volume => yesNo(volume.protected)],
  ['USABLE', volume => yesNo(volume.usable)],
  ['LAG', lagText],
  ['DIRTY', volume => formatSize(volume.dirtyBytes)],
  ['SIZE', volume => formatSize(volume.sizeBytes)],
  ['PEER', peerText],
]

export function statusTable(document: StatusDocument, now: Date): string {
  const masters = mastersText(document)
  if (document.volumes.length === 0) return ['no volumes yet', ...masters].join('\n')
  const [titles = '', ...rows] = table(columns, document.volumes)
  const lines = [titles]
  document.volumes.forEach((volume, index) => {
    lines.push(rows[index] ?? '')
    for (const note of notes(volume, now)) lines.push(`  ${note}`)
  })
  return [...lines, ...attachmentsText(document), ...masters].join('\n')
}

function attachmentsText({ attachments }: StatusDocument): string[] {
  return (attachments ?? []).map(
    ({ device, volume, state, reason }) => `${volume} is ${device}, ${state}${reason === '' ? '' : `: ${reason}`}`,
  )
}

/** Of a standby. */
function mastersText({ allow, revoked }: StatusDocument): string[] {
  if (allow === undefined) return []
  const lines = allow.map(id => `allows master ${id}`)
  return [...lines, ...(revoked ?? []).map(id => `revoked master ${id}`)]
}

const yesNo = (value: boolean): string => (value ? 'yes' : 'NO')

function lagText(volume: VolumeStatus): string {
  if (volume.state === 'alone') return '-'
  if (volume.lagBytes === 0 && volume.lagSeconds < 0.0005) return '0'
  return `${formatSize(volume.lagBytes)} ${formatDuration(volume.lagSeconds * 1000)}`
}

function peerText(volume: VolumeStatus): string {
  const [peer] = volume.peers
  if (peer === undefined) return '-'
  const rtt = peer.rttSeconds === null ? '' : ` ${(peer.rttSeconds * 1000).toFixed(2)} ms`
  return `${peer.id.slice(0, 8)} ${peer.session}${rtt}`
}

function notes(volume: VolumeStatus, now: Date): string[] {
  const lines: string[] = []
  if (volume.reason !== '')
    lines.push(`${volume.reason} (for ${formatDuration(Math.max(0, now.getTime() - Date.parse(volume.since)))})`)
  if (volume.asOf !== undefined)
    lines.push(`promoted as of ${shortTime(volume.asOf.time)}, ${positionText(volume.asOf)}`)
  if (volume.resync !== null) lines.push(resyncText(volume.resync))
  for (const { compression } of volume.peers)
    if (compression !== undefined && compression.reason !== '') lines.push(`not compressed: ${compression.reason}`)
  if (volume.filter !== undefined) lines.push(filterText(volume.filter))
  if (volume.history !== undefined) lines.push(historyText(volume.history, volume.usable))
  const lease = leaseText(volume)
  if (lease !== '') lines.push(lease)
  const [unreadable] = volume.unreadable ?? []
  if (unreadable !== undefined)
    lines.push(
      `${volume.unreadable?.length} ranges of the device cannot be read, the first at ${unreadable.offset}; the standby keeps its copy of them`,
    )
  return lines
}

function historyText({ oldest, newest, bytes, pointCount }: HistoryStatus, usable: boolean): string {
  if (oldest === null || newest === null)
    return usable
      ? 'no earlier moment is kept now; its history begins anew by itself (the log says why one was given up)'
      : 'its history begins when the first copy is complete'
  const span = formatDuration(Date.parse(newest.time) - Date.parse(oldest.time))
  return `any moment of ${span} up to now is kept: ${formatSize(bytes)}, ${pointCount} labelled points`
}

function filterText({ keys, leftOutByRanges, leftOutBytes, replicatedWhole }: FilterStatus): string {
  const whole =
    replicatedWhole.length === 0 ? '' : `; file systems that are replicated whole: ${replicatedWhole.length}`
  return `leaves out ${formatSize(leftOutByRanges + leftOutBytes)}: ${keys.join('; ')}${whole}`
}

/** What nobody has to act on is not said: a lease that a session keeps alive. */
function leaseText({ lease, role, peers }: VolumeStatus): string {
  if (lease === undefined || peers.some(({ session }) => session === 'connected')) return ''
  if (!lease.inForce) return 'no lease is needed before a standby is there'
  if (lease.secondsLeft === 0) return ''
  const left = formatDuration(lease.secondsLeft * 1000)
  return role === 'master'
    ? `the lease runs out in ${left}: clients wait from then on`
    : `the lease of the master is over in ${left}: promote --accept-loss waits for that`
}

export function resyncText(resync: ResyncStatus): string {
  const percent = resync.totalBytes === 0 ? 100 : Math.floor((100 * resync.doneBytes) / resync.totalBytes)
  const left = resync.etaSeconds === null ? '' : `, ${formatDuration(resync.etaSeconds * 1000)} left`
  return `${percent} % of ${formatSize(resync.totalBytes)} at ${formatSize(resync.rate)}/s${left}`
}
