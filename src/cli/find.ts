/** understudy find: the newest point of the history on which a check passes. */
import { spawn } from 'node:child_process'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { Command } from 'commander'

import type { ControlClient } from '../daemon/control-client.js'
import type {
  ExportEvent,
  ExportRequest,
  HistoryReply,
  HistoryRequest,
  PointDocument,
} from '../daemon/control-protocol.js'
import { describe, OperationError, UnderstudyError, UsageError } from '../core/errors.js'
import { killGroup } from '../core/process-group.js'
import { formatDuration } from '../core/units.js'
import { Caretaker } from './caretaker.js'
import {
  connectTo,
  interruptSignal,
  parseLimit,
  parser,
  print,
  repeatable,
  type StateFlag,
  stateOption,
} from './options.js'
import { positionText, shortTime } from './timeline.js'

const help = `
Asked on the standby's host, which was started with --history. CMD is run by the shell (sh -c) for one point after the
other, from the newest back, until it ends with exit code 0; that point is named on stdout. Exit code 1: there is none.
What CMD prints goes to stderr. Each time the volume is served as it was at that point, read-only, or with --writable on
an overlay that is thrown away, which a check needs that replays a journal. CMD finds these in its environment:

  UNDERSTUDY_URI        nbd+unix:///VOLUME?socket=..., for nbdcopy, qemu-img, nbdfuse
  UNDERSTUDY_SOCKET     the unix socket in it, and UNDERSTUDY_EXPORT the export's name: for nbd-client -unix
  UNDERSTUDY_POSITION   the moment, as --at takes it
  UNDERSTUDY_TIME, UNDERSTUDY_KIND, UNDERSTUDY_LABEL   of the point

CMD and all that it has started end with this command, also when that is killed (but for what made a session of its own).

Example: understudy find disk1 --newest --check 'nbdcopy "$UNDERSTUDY_URI" /tmp/d.img && e2fsck -fn /tmp/d.img'
         understudy find disk1 --newest --points mark --check ./test-database.sh
`

interface FindFlags extends StateFlag {
  newest?: boolean
  check?: string
  points?: string[]
  writable?: boolean
  timeout?: number
  json?: boolean
}

const kinds = ['mark', 'clean-stop', 'flush'] as const

export function findCommand(): Command {
  return new Command('find')
    .description('name the newest point of the history on which a check passes')
    .argument('<volume>', "the volume's name")
    .option('--newest', 'from the newest back (the only way there is)')
    .option('--check <cmd>', 'what is to pass, for the shell')
    .option('--points <kind>', `only of this kind: ${kinds.join(', ')}; any number of times (default: all)`, repeatable)
    .option('--writable', 'on a throw-away overlay')
    .option('--timeout <time>', 'a check that takes longer has failed (default: none does)', parser(parseLimit))
    .option('--json', 'the point, for programs')
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(find)
}

async function find(volume: string, flags: FindFlags): Promise<void> {
  const { check } = flags
  if (check === undefined) throw new UsageError("find: --check is missing; for example --check 'true'")
  // The shell takes no command for a success: "$CHECK" that is not set would name the newest point.
  if (check.trim() === '') throw new UsageError('find: --check is empty')
  for (const kind of flags.points ?? [])
    if (!kinds.some(known => known === kind))
      throw new UsageError(`find: --points ${kind}: it is not one of ${kinds.join(', ')}`)
  const client = connectTo(flags)
  const signal = interruptSignal()
  const request: HistoryRequest = { volume, from: '', to: '', buckets: 1, by: 'find' }
  const { points } = await client.post<HistoryReply>('/history', request)
  const wanted = points.filter(({ kind }) => flags.points?.includes(kind) ?? true).reverse()
  const directory = await mkdtemp(join(tmpdir(), 'understudy-find-'))
  const caretaker = new Caretaker(directory)
  try {
    for (const [index, point] of wanted.entries()) {
      // A name of its own: the daemon may still be ending the export before.
      const socket = join(directory, `${index}.sock`)
      if (await passes({ client, volume, point, check, socket, signal, caretaker }, flags))
        return print(flags.json === true ? JSON.stringify(point) : pointText(volume, point))
      if (signal.aborted) throw new OperationError('INTERRUPTED', 'find: interrupted')
    }
  } finally {
    await caretaker.dismiss()
  }
  const of = wanted.length === 1 ? 'the one point' : `any of ${wanted.length} points`
  throw new OperationError(
    'NOT_FOUND',
    wanted.length === 0
      ? `find ${volume}: the history has no such points`
      : `find ${volume}: the check does not pass on ${of} (understudy history ${volume} --flushes lists them)`,
  )
}

interface Attempt {
  client: ControlClient
  volume: string
  point: PointDocument
  check: string
  socket: string
  signal: AbortSignal
  caretaker: Caretaker
}

async function passes(attempt: Attempt, { writable, timeout }: FindFlags): Promise<boolean> {
  const { client, volume, point, socket, signal } = attempt
  const request: ExportRequest = {
    ...{ volume, listen: `unix:${socket}`, writable: writable ?? false, detach: false, saved: '', tls: null },
    ...{ at: positionText(point), by: 'find' },
  }
  try {
    for await (const { uri } of client.stream<ExportEvent>('/export', request, signal)) {
      const problem = await run(attempt, uri, timeout)
      say(volume, point, problem === '' ? 'passes' : problem)
      return problem === '' // Leaving the loop ends the export.
    }
  } catch (error) {
    // It has expired meanwhile; so will the older ones, which are told, too.
    if (!(error instanceof UnderstudyError) || error.code !== 'NO_MOMENT') throw error
    say(volume, point, describe(error))
  }
  return false
}

/** '': it passed. */
function run(
  { check, point, volume, socket, signal, caretaker }: Attempt,
  uri: string,
  timeoutMs?: number,
): Promise<string> {
  const env = {
    ...process.env,
    ...{ UNDERSTUDY_URI: uri, UNDERSTUDY_SOCKET: socket, UNDERSTUDY_EXPORT: volume },
    ...{ UNDERSTUDY_POSITION: positionText(point), UNDERSTUDY_TIME: point.time },
    ...{ UNDERSTUDY_KIND: point.kind, UNDERSTUDY_LABEL: point.label },
  }
  // A group of its own, so that what the shell has started ends with it.
  const child = spawn('/bin/sh', ['-c', check], { stdio: ['ignore', 2, 2], env, detached: true })
  caretaker.watch(child)
  return new Promise(resolve => {
    let why = ''
    const end = (reason: string): void => {
      why ||= reason
      killGroup(child)
    }
    const interrupted = (): void => end('interrupted')
    const timer =
      timeoutMs === undefined ? undefined : setTimeout(() => end(`not within ${formatDuration(timeoutMs)}`), timeoutMs)
    const over = (problem: string): void => {
      caretaker.watch(undefined)
      clearTimeout(timer)
      signal.removeEventListener('abort', interrupted)
      resolve(why === '' ? problem : why)
    }
    signal.addEventListener('abort', interrupted)
    child.once('error', error => over(describe(error)))
    child.once('exit', (code, by) => over(code === 0 ? '' : code === null ? `ended by ${by}` : `exit code ${code}`))
  })
}

const say = (volume: string, point: PointDocument, what: string): void =>
  void process.stderr.write(`${pointText(volume, point)}: ${what}\n`)

function pointText(volume: string, point: PointDocument): string {
  const label = point.label === '' || point.kind !== 'mark' ? point.kind : `${point.kind} '${point.label}'`
  return `${volume} ${positionText(point)} ${shortTime(point.time)} ${label}`
}
