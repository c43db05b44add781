/** understudy export: the standby's copy over NBD, for as long as this command runs (or detached); or as a file. */
import { resolve } from 'node:path'

import { Command, Option } from 'commander'

import { tlsConfig } from '../core/config.js'
import { type ExportFormat, exportFormats, type TlsConfig, tlsModes } from '../core/config-types.js'
import { OperationError, UsageError } from '../core/errors.js'
import type {
  ExportEvent,
  ExportFileReply,
  ExportFileRequest,
  ExportRequest,
  UnexportReply,
} from '../daemon/control-protocol.js'
import {
  absoluteAddress,
  addTlsOptions,
  connectTo,
  interruptSignal,
  momentOf,
  parser,
  print,
  type StateFlag,
  stateOption,
  type TlsFlags,
} from './options.js'
import { positionText, shortTime } from './timeline.js'

interface ExportFlags extends StateFlag, TlsFlags {
  listen?: string
  to?: string
  writable?: boolean
  detach?: boolean
  end?: boolean
  saved?: string | true
  format: ExportFormat
  at?: string
}

const help = `
Asked on the standby's host. The copy is frozen at its applied watermark: a cut of the master's history. With
--writable clients may write to an overlay that is thrown away with the export. Replication goes on meanwhile.
With --at it is any moment of the history that a standby with --history keeps; 'understudy history --help' says how one is
written. Several moments can be exported at once.
With --to the copy as it is now becomes a file of its own instead, without a byte being copied, where the store's file
system has reflink (XFS, btrfs) and FILE is on it. What is there already is left as it is, and the command fails.

Example: understudy export disk1 --listen unix:/tmp/disk1.sock
         nbdcopy 'nbd+unix:///disk1?socket=/tmp/disk1.sock' copy.img
         understudy export disk1 --listen unix:/tmp/then.sock --at -15min --writable
         understudy export disk1 --format vhd --to /var/lib/understudy/store/disk1.vhd
`

export function exportCommand(): Command {
  const command = new Command('export')
    .description(
      "serve the standby's copy of a volume over NBD, frozen at its watermark, until Ctrl-C; or make a file of it",
    )
    .argument('<volume>', "the volume's name")
    .option(
      '--listen <addr>',
      'where clients reach it: unix:PATH or HOST:PORT (loopback, unless [nbd] insecure is set)',
      parser(absoluteAddress),
    )
    .option('--to <file>', 'make a file of it, by reflink, instead of serving it')
    .option('--at <moment>', 'not as it is now, but as it was: a position, a time, -90s, or a label (needs --history)')
    .option('--writable', 'let clients write to a throw-away overlay')
    .option(
      '--saved [file]',
      "not the copy, but what 'understudy resolve' has saved of this side: the file, or the newest of the volume",
    )
    .addOption(
      new Option('--format <format>', 'raw, or vhd: a fixed VHD, its footer behind the last byte; read-only')
        .choices(exportFormats)
        .default('raw'),
    )
    .option('--detach', 'return at once; the daemon serves the export until --end, or until it stops')
    .option('--end', 'end the detached exports of the volume')
  return addTlsOptions(command, "as the daemon's [nbd] says")
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(exportVolume)
}

async function exportVolume(volume: string, flags: ExportFlags): Promise<void> {
  const client = connectTo(flags)
  if (flags.end === true) {
    const { ended } = await client.post<UnexportReply>('/unexport', { volume })
    if (ended === 0) throw new OperationError('NO_EXPORT', `export: volume '${volume}' has no detached export`)
    return print(`ended ${ended} export${ended === 1 ? '' : 's'} of ${volume}`)
  }
  if (flags.to !== undefined) return exportFile(volume, flags.to, flags)
  if (flags.listen === undefined)
    throw new UsageError('export: --listen is missing; for example --listen unix:/tmp/disk1.sock')
  if (flags.format !== 'raw' && (flags.writable === true || flags.saved !== undefined))
    throw new UsageError(`export: --format ${flags.format} goes neither with --writable nor with --saved`)
  const signal = interruptSignal()
  const request: ExportRequest = {
    volume,
    listen: flags.listen,
    writable: flags.writable ?? false,
    detach: flags.detach ?? false,
    format: flags.format,
    ...tlsRequest(flags),
    saved: flags.saved === undefined ? '' : flags.saved === true ? 'newest' : resolve(flags.saved),
    at: momentOf('export', flags),
  }
  for await (const event of client.stream<ExportEvent>('/export', request, signal)) {
    print(event.uri)
    if (flags.at !== undefined) sayMoment(volume, event.position, event.time)
    if (request.detach) return
  }
  if (!signal.aborted) throw new OperationError('DAEMON_LEFT', `export: the daemon ended the export of '${volume}'`)
}

async function exportFile(volume: string, file: string, flags: ExportFlags): Promise<void> {
  if (flags.at !== undefined)
    throw new UsageError(
      'export: --to is of the copy as it is now; an earlier moment (--at) needs --listen, and nbdcopy',
    )
  const serving = [
    'listen',
    'writable',
    'detach',
    'saved',
    'tls',
    'tlsCertificates',
    'tlsPsk',
    'tlsVerifyPeer',
  ] as const
  const other = serving.find(name => flags[name] !== undefined)
  if (other !== undefined)
    throw new UsageError(`export: --to serves nothing; --${other.replace(/[A-Z].*/, '-...')} does not go with it`)
  const request: ExportFileRequest = { volume, path: resolve(file), format: flags.format }
  const { position, time } = await connectTo(flags).post<ExportFileReply>('/export-file', request)
  print(request.path)
  sayMoment(volume, position, time)
}

/** On stderr: what is printed otherwise is where it is. */
function sayMoment(volume: string, position: ExportEvent['position'], time: string | undefined): void {
  const when = time === undefined ? '' : `, ${shortTime(time)}`
  process.stderr.write(`${volume} as it was at ${positionText(position)}${when}\n`)
}

/** Paths are ours; the daemon has a working directory of its own. */
function tlsRequest(flags: TlsFlags): { tls?: TlsConfig | null } {
  const { tls: mode, tlsCertificates, tlsPsk, tlsVerifyPeer } = flags
  if (mode === undefined && tlsCertificates === undefined && tlsPsk === undefined && tlsVerifyPeer !== true) return {}
  const known = tlsModes.find(candidate => candidate === (mode ?? 'off'))
  if (known === undefined) throw new UsageError(`--tls: '${mode}' is not one of ${tlsModes.join(', ')}`)
  const tls = tlsConfig(known, {
    verifyPeer: tlsVerifyPeer ?? false,
    ...(tlsCertificates === undefined ? {} : { certificates: resolve(tlsCertificates) }),
    ...(tlsPsk === undefined ? {} : { psk: resolve(tlsPsk) }),
  })
  if (typeof tls === 'string') throw new UsageError(`--tls: ${tls}`)
  return { tls: tls ?? null }
}
