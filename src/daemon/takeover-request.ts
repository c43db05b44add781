/**
 * POST /takeover: what a process says that wants to go on in place of a daemon, and whether it can. A takeover is a
 * restart in which nobody notices anything: settings may change, but not what is served, or where.
 */
import type { Config, GroupConfig } from '../core/config-types.js'
import { SafetyRefusal } from '../core/errors.js'
import { formatAddress, formatHostPort } from '../core/units.js'
import type { Fields } from './control-protocol.js'

/** Of the estate and the messages; another one is refused. */
export const takeoverFormat = 2

/** How long clients may wait, at one go. */
export const maxStall = { otherwiseMs: 500, leastMs: 50, mostMs: 60_000 }

export interface TakeoverRequest {
  /** Where the successor waits for a channel (native/takeover/channel.h). */
  socket: string
  format: number
  version: string
  /** shapeOf() its configuration. */
  shape: string[]
  maxStallMs: number
}

export interface TakeoverReply {
  pid: number
}

export function takeoverRequest(fields: Fields): TakeoverRequest {
  return {
    socket: fields.string('socket'),
    format: fields.limit('format') ?? 0,
    version: fields.string('version'),
    shape: fields.strings('shape'),
    maxStallMs: fields.limit('maxStallMs') ?? maxStall.otherwiseMs,
  }
}

/** One line for each thing that must be the same. */
export function shapeOf({ groups, nbd, metrics, standby }: Config): string[] {
  const lines = groups.flatMap(shapeOfGroup)
  for (const address of nbd.listen) lines.push(`[nbd] listen ${formatAddress(address)}`)
  if (metrics !== undefined) lines.push(`[metrics] listen ${formatHostPort(metrics)}`)
  if (standby === undefined) return lines.sort()
  lines.push(`[standby] store ${standby.store}`)
  if (standby.listen !== undefined) lines.push(`[standby] listen ${formatHostPort(standby.listen)}`)
  for (const [name, device] of standby.devices) lines.push(`[standby.devices] ${name} = ${device}`)
  return lines.sort()
}

function shapeOfGroup({ name, volumes }: GroupConfig): string[] {
  return volumes.map(
    volume => `group '${name}': export '${volume.name}' of ${volume.device}${volume.readOnly ? ', read-only' : ''}`,
  )
}

/** What keeps a daemon from handing over, or nothing. */
export interface HandOverObstacles {
  leaving: boolean
  /** Volumes of copies that are exported: frozen in memory. */
  exporting: string[]
  /** Groups whose peer reigns. */
  outranked: string[]
  /** Groups that wait for what their standby gives back. */
  owed: string[]
}

/** Throws SafetyRefusal: one line that says why not. */
export function judgeTakeover(request: TakeoverRequest, config: Config, obstacles: HandOverObstacles): void {
  const refuse = (code: string, why: string): never => {
    throw new SafetyRefusal(code, `takeover: refused: ${why}`)
  }
  if (request.format !== takeoverFormat)
    refuse('OTHER_VERSION', `version ${request.version} hands over in another way than this daemon; restart it`)
  const [ours, theirs] = [shapeOf(config), request.shape]
  const only = (some: string[], others: string[]): string => some.filter(line => !others.includes(line)).join('; ')
  const [gone, added] = [only(ours, theirs), only(theirs, ours)]
  if (gone !== '' || added !== '') {
    const parts = [
      ...(gone === '' ? [] : [`only the running daemon has ${gone}`]),
      ...(added === '' ? [] : [`only the new one has ${added}`]),
    ]
    refuse('OTHER_CONFIG', `the configurations differ: ${parts.join('; ')}. Reload or restart the daemon for that`)
  }
  const { leaving, exporting, outranked, owed } = obstacles
  if (leaving) refuse('LEAVING', 'the daemon is starting, stopping, or handing over to another process')
  if (exporting.length > 0)
    refuse('EXPORTING', `copies are exported (${exporting.join(', ')}); end 'understudy export' first`)
  if (outranked.length > 0)
    refuse('OUTRANKED', `the peer of group ${outranked.join(', ')} reigns; 'understudy resolve' ends that`)
  if (owed.length > 0)
    refuse(
      'OWED',
      `group ${owed.join(', ')} waits for what its standby gives back, and serves nobody yet; restart the daemon`,
    )
}
