/** The machines of a standby as a table for people. */
import { formatDuration, formatSize } from '../core/units.js'
import type { MachinesDocument, MachineStatus } from '../recovery/listing.js'
import { type Columns, table } from './table.js'

const columns: Columns<MachineStatus> = [
  ['MACHINE', machine => machine.name],
  ['GROUP', machine => machine.group],
  ['MEMORY', machine => formatSize(machine.memoryBytes)],
  ['DISKS', machine => machine.volumes.join(',')],
  ['PRIMARY', primaryText],
  ['FRESHNESS', freshnessText],
  ['RESIDENT', residentText],
  ['RUNS', ({ run }) => (run === null ? '-' : `${run.kind} since ${run.since}`)],
  ['NEXT DRILL', nextText],
  ['LAST DRILL', drillText],
]

export function machineTable({ machines }: MachinesDocument): string {
  return machines.length === 0 ? "no machines yet: 'understudy vm add' makes one" : table(columns, machines).join('\n')
}

function primaryText({ primary, freshness }: MachineStatus): string {
  if (freshness.role === 'master') return 'this host'
  return `${primary.id.slice(0, 8)} ${primary.address ?? 'away'}`
}

function residentText({ residency }: MachineStatus): string {
  if (residency === null) return '-'
  const { dataBytes, residentBytes } = residency
  const percent = dataBytes === 0 ? 100 : Math.floor((100 * residentBytes) / dataBytes)
  return `${percent} % of ${formatSize(dataBytes)}`
}

function drillText({ lastDrill }: MachineStatus): string {
  if (lastDrill === null) return '-'
  const { startedAt, passed, reason, seconds } = lastDrill
  return `${startedAt} ${passed ? `passed in ${formatDuration(seconds * 1000)}` : `FAILED: ${reason}`}`
}

function nextText({ nextDrill }: MachineStatus): string {
  if (nextDrill === null) return '-'
  const { dueAt } = nextDrill
  return dueAt === null ? 'not while promoted' : Date.parse(dueAt) <= Date.now() ? 'now' : dueAt
}

function freshnessText({ freshness, asOf }: MachineStatus): string {
  const { role, usable, reason, lagBytes, lagSeconds } = freshness
  if (role === 'master') return asOf === null ? 'promoted' : `promoted as of ${asOf.time.slice(0, 19)}Z`
  if (!usable) return `NOT USABLE${reason === '' ? '' : `: ${reason}`}`
  const lag =
    lagBytes === 0 && lagSeconds < 0.0005 ? 'current' : `${formatSize(lagBytes)} ${formatDuration(lagSeconds * 1000)}`
  return reason === '' ? lag : `${lag}; ${reason}`
}
