/** What the requests about a history do: which moments there are, and a name for the present one. */
import { attempt, OperationError } from '../core/errors.js'
import { bucketsMax, type HistoryListing, isoTime, momentDocument } from '../standby/history.js'
import { checkLabel } from '../standby/moment.js'
import type { HistoryPoint } from '../standby/points.js'
import type { Fields, HistoryReply, HistoryRequest, PointDocument } from './control-protocol.js'
import type { Answer, Routes } from './control-server.js'
import type { Daemon } from './daemon.js'
import type { StandbyRole } from './roles.js'

/** The role that has a volume's copy; throws if this host has none. */
type CopyOf = (volume: string, action: string) => StandbyRole

export function historyRoutes(daemon: Daemon, copyOf: CopyOf): Routes {
  return {
    'POST /history': fields => list(copyOf, fields),
    'POST /mark': fields => mark(daemon, copyOf, fields),
  }
}

/** What was typed, as far as it matters for what is said. */
export const commandOf = (fields: Fields, otherwise: string): string =>
  fields.text('by') === '' ? otherwise : fields.oneOf('by', ['find'])

async function list(copyOf: CopyOf, fields: Fields): Promise<Answer> {
  const request: HistoryRequest = {
    volume: fields.string('volume'),
    from: fields.text('from'),
    to: fields.text('to'),
    buckets: fields.count('buckets', 1, bucketsMax),
  }
  const { volume, from, to, buckets } = request
  const command = commandOf(fields, 'history')
  const standby = copyOf(volume, command)
  const listing = await standby.listHistory(`${command} ${volume}`, volume, from, to, buckets)
  const status = standby.status().find(({ name }) => name === volume)
  if (status?.history === undefined)
    throw new OperationError('NO_HISTORY', `${command} ${volume}: none is kept here any more`)
  const { group, history } = status
  return { document: { volume, group, ...history, ...listingDocument(listing) } satisfies HistoryReply }
}

/** At either side: the master has its standby note it. */
async function mark(daemon: Daemon, copyOf: CopyOf, fields: Fields): Promise<Answer> {
  const volume = fields.string('volume')
  const label = attempt(`mark ${volume}`, () => checkLabel(fields.text('label')))
  const master = daemon.groups().find(group => group.exports().some(({ name }) => name === volume))
  if (master === undefined) return { document: pointDocument(await copyOf(volume, 'mark').mark(volume, label)) }
  return { document: pointDocument({ kind: 'mark', label, ...(await master.mark(volume, label)) }) }
}

type ListingDocument = Pick<HistoryReply, 'from' | 'to' | 'bucketSeconds' | 'writtenBytes' | 'points'>

function listingDocument({ from, to, bucketNs, writtenBytes, points }: HistoryListing): ListingDocument {
  return {
    from: isoTime(from.timeNs),
    to: isoTime(to.timeNs),
    bucketSeconds: Number(bucketNs) / 1e9,
    writtenBytes,
    points: points.map(pointDocument),
  }
}

function pointDocument(point: HistoryPoint): PointDocument {
  return { kind: point.kind, label: point.label, ...momentDocument(point) }
}
