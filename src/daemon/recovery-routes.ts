/** Requests of the control socket that put machines on stage. */
import { attempt, OperationError } from '../core/errors.js'
import type { DrillResult, DrillWish } from '../recovery/drill-file.js'
import type { Started } from '../recovery/runs.js'
import { parseMoment } from '../standby/moment.js'
import type { Fields, MessagesReply } from './control-protocol.js'
import type { Answer, Routes } from './control-server.js'
import type { Daemon } from './daemon.js'

export type DrillEvent = { done: false } | { done: true; result: DrillResult }

export function recoveryRoutes({ recovery }: Daemon): Routes {
  return {
    'POST /vm/start': async fields =>
      reply<Started>(
        await recovery.runs.start({
          machine: fields.string('machine'),
          acceptLoss: fields.flag('acceptLoss'),
          force: fields.flag('force'),
          print: fields.flag('print'),
          throwAway: fields.flag('throwAway'),
          at: fields.text('at'),
        }),
      ),
    'POST /vm/stop': async fields => {
      const { machine, force } = { machine: fields.string('machine'), force: fields.flag('force') }
      return reply<MessagesReply>({ messages: [await recovery.runs.stop(machine, force, timeoutOf(fields))] })
    },
    'POST /vm/drill': fields => {
      const request = { machine: fields.string('machine'), at: fields.text('at'), ...wishOf(fields) }
      return {
        stream: async (report, signal) => {
          report({ done: false } satisfies DrillEvent)
          report({ done: true, result: await recovery.drills.run(request, signal) } satisfies DrillEvent)
        },
      }
    },
    'POST /vm/repeat-drill': fields => {
      const machine = fields.string('machine')
      const everyMs = fields.limit('everyMs')
      const at = fields.text('at')
      if (at !== '') attempt(`vm drill ${machine}`, () => parseMoment(at, Date.now())) // What is none will never be one.
      recovery.drills.setSchedule(machine, everyMs === null ? undefined : { everyMs, at, ...wishOf(fields) })
      return reply({})
    },
  }
}

function wishOf(fields: Fields): DrillWish {
  return { marker: fields.text('marker'), port: fields.limit('port') ?? 0, timeoutMs: timeoutOf(fields) }
}

function timeoutOf(fields: Fields): number {
  const timeoutMs = fields.limit('timeoutMs')
  if (timeoutMs === null) throw new OperationError('TIMEOUT', "request: 'timeoutMs' must be milliseconds")
  return timeoutMs
}

function reply<T>(document: T): Answer {
  return { document }
}
