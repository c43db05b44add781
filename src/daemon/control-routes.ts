/** What each request of the control socket does. */
import { isAbsolute } from 'node:path'

import { exportFormats, type TlsConfig } from '../core/config-types.js'
import { OperationError, SafetyRefusal, UsageError } from '../core/errors.js'
import { encodePosition } from '../core/reigns.js'
import { parseAddress, parseId, parseRate } from '../core/units.js'
import { parseFileRules } from '../filter/file-rules.js'
import { version } from '../core/version.js'
import { isoTime } from '../standby/history.js'
import {
  type AttachRequest,
  type DetachReply,
  type ExportEvent,
  type ExportFileReply,
  type ExportRequest,
  type Fields,
  type FilterChangeReply,
  type FilterChangeRequest,
  type FilterReply,
  type HealthReply,
  type MessagesReply,
  type PromoteReply,
  type ReloadReply,
  type ResolveRequest,
  type RotateReply,
  type UnexportReply,
  type VerifyEvent,
  type VerifyRange,
  waitConditions,
  type WaitRequest,
} from './control-protocol.js'
import type { Answer, Routes } from './control-server.js'
import type { Daemon } from './daemon.js'
import { commandOf, historyRoutes } from './history-routes.js'
import { machineRoutes } from './machine-routes.js'
import type { MasterRole, StandbyRole } from './roles.js'
import { recoveryRoutes } from './recovery-routes.js'
import { takeoverRequest } from './takeover-request.js'
import { waitFor } from './wait.js'

export function controlRoutes(daemon: Daemon): Routes {
  return {
    'GET /status': () => ({ document: daemon.status() }),
    'GET /health': () => ({ document: health(daemon) }),
    'POST /wait': fields => wait(daemon, fields),
    'POST /export': fields => exportCopy(daemon, fields),
    'POST /export-file': async fields => reply(await exportFile(daemon, fields)),
    'POST /unexport': async fields =>
      reply<UnexportReply>({ ended: await daemon.copies.endDetached(fields.string('volume')) }),
    'POST /promote': fields => promote(daemon, fields),
    'POST /demote': fields => demote(daemon, fields, false),
    'POST /switchover': fields => demote(daemon, fields, true),
    'POST /resolve': fields => resolve(daemon, fields),
    'POST /pause': async fields => {
      const volume = fields.string('volume')
      await daemon.roles.pause(volume)
      return reply<MessagesReply>({
        messages: [`${volume}: paused; nothing is replicated until 'understudy resume ${volume}'`],
      })
    },
    'POST /resume': fields => {
      const volume = fields.string('volume')
      daemon.roles.resume(volume)
      return reply<MessagesReply>({ messages: [`${volume}: replication goes on`] })
    },
    'POST /invalidate': async fields => {
      const volume = fields.string('volume')
      const inPlace = fields.flag('inPlace')
      await daemon.roles.invalidate(volume, inPlace)
      const message = inPlace
        ? 'what it lacks goes straight into the copy, which is not usable until it is complete'
        : 'nothing is believed of the copy any more; all of it is compared'
      return reply<MessagesReply>({ messages: [`${volume}: ${message}`] })
    },
    'POST /verify': fields => verify(daemon, fields),
    'POST /filter': fields => explainFilter(daemon, fields),
    'POST /change-filter': fields => changeFilter(daemon, fields),
    'POST /allow': fields => {
      daemon.allowMaster(parseId(fields.string('id')))
      return reply({})
    },
    'POST /revoke': fields => {
      daemon.revokeMaster(parseId(fields.string('id')))
      return reply({})
    },
    'POST /attach': fields => attach(daemon, fields),
    'POST /detach': async fields =>
      reply<DetachReply>({ device: await daemon.attachments.detach(fields.string('name'), fields.flag('force')) }),
    'POST /rotate': fields => reply<RotateReply>(daemon.rotateIdentity(fields.flag('finish'))),
    'POST /reload': async () => reply<ReloadReply>({ messages: await daemon.reload() }),
    ...historyRoutes(daemon, (volume, action) => standbyOf(daemon, volume, action)),
    ...machineRoutes(daemon),
    'POST /takeover': fields => reply(daemon.options.takeover(takeoverRequest(fields))),
    ...recoveryRoutes(daemon),
    'POST /stop': () => {
      daemon.options.stop('asked over the control socket')
      return { document: {} }
    },
  }
}

function reply<T>(document: T): Answer {
  return { document }
}

function health(daemon: Daemon): HealthReply {
  return { version, pid: process.pid, id: daemon.id, addresses: daemon.addresses() }
}

function wait(daemon: Daemon, fields: Fields): Answer {
  const request: WaitRequest = {
    volume: fields.string('volume'),
    for: fields.oneOf('for', waitConditions),
    timeoutMs: fields.limit('timeoutMs'),
  }
  return {
    stream: (report, signal) =>
      waitFor(request, {
        status: name => daemon.status().volumes.filter(volume => volume.name === name),
        mayAppear: daemon.standby !== undefined,
        signal,
        report,
      }),
  }
}

async function attach(daemon: Daemon, fields: Fields): Promise<Answer> {
  const request: AttachRequest = {
    volume: fields.string('volume'),
    device: fields.string('device'),
    deadMs: fields.limit('deadMs') ?? 0,
  }
  await daemon.attachments.attach(request.volume, request.device, request.deadMs)
  return { document: {} }
}

function exportCopy(daemon: Daemon, fields: Fields): Answer {
  const request: ExportRequest = {
    volume: fields.string('volume'),
    listen: fields.string('listen'),
    writable: fields.flag('writable'),
    detach: fields.flag('detach'),
    format: fields.text('format') === '' ? 'raw' : fields.oneOf('format', exportFormats),
    ...tlsOf(fields),
    saved: fields.text('saved'),
    at: fields.text('at'),
  }
  if (request.at !== '' && request.saved !== '')
    throw new UsageError('export: what was saved has no history; --at and --saved do not go together')
  const command = commandOf(fields, 'export')
  const standby = request.saved === '' ? standbyOf(daemon, request.volume, command) : storeOf(daemon)
  return {
    stream: async (report, signal) => {
      const copy = await daemon.copies.add(standby, request, command)
      try {
        const { uri, position, time } = copy
        report({ uri, position, ...(time === undefined ? {} : { time }) } satisfies ExportEvent)
        if (!request.detach) await untilAborted(signal)
      } finally {
        if (!request.detach) await copy.close()
      }
    },
  }
}

async function exportFile(daemon: Daemon, fields: Fields): Promise<ExportFileReply> {
  const volume = fields.string('volume')
  const wish = { path: fields.string('path'), format: fields.oneOf('format', exportFormats) }
  if (!isAbsolute(wish.path)) throw new UsageError(`export ${volume}: '${wish.path}' is no absolute path`)
  const point = await standbyOf(daemon, volume, 'export').makeFile(volume, wish)
  return { position: encodePosition(point), ...(point.timeNs === 0n ? {} : { time: isoTime(point.timeNs) }) }
}

function tlsOf(fields: Fields): { tls?: TlsConfig | null } {
  const part = fields.table('tls')
  if (part === undefined || part === null) return part === undefined ? {} : { tls: null }
  const [certificates, psk] = [part.text('certificates'), part.text('psk')]
  const tls: TlsConfig = { required: part.flag('required'), verifyPeer: part.flag('verifyPeer') }
  if (certificates !== '') tls.certificates = certificates
  if (psk !== '') tls.psk = psk
  return { tls }
}

async function demote(daemon: Daemon, fields: Fields, takeOver: boolean): Promise<Answer> {
  const volume = fields.string('volume')
  daemon.recovery.runs.refuseOn(`${takeOver ? 'switchover' : 'demote'} ${volume}`, groupNameOf(daemon, volume))
  return reply<MessagesReply>({ messages: await daemon.roles.demote(volume, takeOver) })
}

async function resolve(daemon: Daemon, fields: Fields): Promise<Answer> {
  const request: ResolveRequest = { volume: fields.string('volume'), keep: fields.oneOf('keep', ['local', 'peer']) }
  if (request.keep === 'peer')
    daemon.recovery.runs.refuseOn(`resolve ${request.volume}`, groupNameOf(daemon, request.volume))
  return reply<MessagesReply>({ messages: await daemon.roles.resolve(request.volume, request.keep) })
}

const groupNameOf = (daemon: Daemon, volume: string): string =>
  daemon.status().volumes.find(({ name }) => name === volume)?.group ?? ''

async function promote(daemon: Daemon, fields: Fields): Promise<Answer> {
  const volume = fields.string('volume')
  const listen = fields.text('listen')
  const force = fields.flag('force')
  const at = fields.text('at')
  const lines = force && listen === '' && at === '' ? daemon.roles.giveUpLease(volume) : undefined
  if (lines !== undefined) return reply<PromoteReply>({ messages: lines })
  if (listen !== '') parseAddress(listen)
  // A copy that reigns by now, or is about to, may be told where its clients come.
  const group = groupNameOf(daemon, volume)
  const standby = daemon.standby?.has(group) === true ? daemon.standby : standbyOf(daemon, volume, 'promote')
  const options = { acceptLoss: fields.flag('acceptLoss'), force, at }
  const { messages } = await standby.promote(volume, listen === '' ? options : { ...options, listen })
  return reply<PromoteReply>({ messages: [...messages, ...daemon.serve()] })
}

function storeOf(daemon: Daemon): StandbyRole {
  if (daemon.standby === undefined) throw new OperationError('NOT_SAVED', 'export: nothing was saved on this host')
  return daemon.standby
}

/** The role that has the copy; a volume of a master here is refused by name. */
function standbyOf(daemon: Daemon, volume: string, action: string): StandbyRole {
  const { standby } = daemon
  const volumes = daemon.status().volumes.filter(({ name }) => name === volume)
  if (standby !== undefined && volumes.some(({ role }) => role === 'standby')) return standby
  if (volumes.length > 0)
    throw new SafetyRefusal(
      'IS_MASTER',
      `${action}: this host is the master of volume '${volume}'; ask the daemon of its standby`,
    )
  throw new OperationError('NO_VOLUME', `${action}: there is no volume '${volume}' here${known(daemon)}`)
}

function verify(daemon: Daemon, fields: Fields): Answer {
  const name = fields.string('volume')
  const rate = fields.text('rate')
  const request = { repair: fields.flag('repair'), bytesPerSecond: rate === '' ? 0 : parseRate(rate) }
  const group = groupOf(daemon, name, 'verify')
  return {
    stream: async report => {
      report({ done: false } satisfies VerifyEvent)
      const { differences, unreadable, leftOut, leftOutBytes, ...outcome } = await group.verify(name, request)
      const { chunks, different, repaired, unreadableBytes } = outcome
      report({
        ...{ done: true, chunks, different, repaired, unreadableBytes },
        differences: differences.map(inBytes),
        unreadable: unreadable.map(inBytes),
        leftOut: leftOut.map(inBytes),
        leftOutBytes: Number(leftOutBytes),
      } satisfies VerifyEvent)
    },
  }
}

async function explainFilter(daemon: Daemon, fields: Fields): Promise<Answer> {
  const name = fields.string('volume')
  const rules = parseFileRules(fields.strings('excludeFiles'), fields.strings('onlyFiles'))
  return reply<FilterReply>(await groupOf(daemon, name, 'filter').explainFilter(name, rules))
}

async function changeFilter(daemon: Daemon, fields: Fields): Promise<Answer> {
  const request: FilterChangeRequest = {
    volume: fields.string('volume'),
    clear: fields.flag('clear'),
    dryRun: fields.flag('dryRun'),
    replicate: fields.strings('replicate'),
    exclude: fields.strings('exclude'),
    excludeFiles: fields.strings('excludeFiles'),
    onlyFiles: fields.strings('onlyFiles'),
    fallback: fields.text('fallback'),
  }
  const group = groupOf(daemon, request.volume, 'filter')
  const outcome = await daemon.changeFilter(group, request.volume, request, request.dryRun)
  return reply<FilterChangeReply>({ ...outcome, file: daemon.configuration.file ?? '' })
}

/** The group of a volume that this host is the master of. */
function groupOf(daemon: Daemon, name: string, action: string): MasterRole {
  const group = daemon.groups().find(candidate => candidate.exports().some(exported => exported.name === name))
  if (group !== undefined) return group
  const hint = daemon.status().volumes.some(volume => volume.name === name)
    ? '; ask the daemon of its master'
    : known(daemon)
  throw new OperationError('NO_VOLUME', `${action}: this host is not the master of a volume '${name}'${hint}`)
}

const inBytes = ({ offset, length }: { offset: bigint; length: bigint }): VerifyRange => ({
  offset: Number(offset),
  length: Number(length),
})

function known(daemon: Daemon): string {
  const names = daemon.status().volumes.map(volume => volume.name)
  return names.length === 0 ? '; it has none yet' : `; there are: ${names.join(', ')}`
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    if (signal.aborted) resolve()
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
