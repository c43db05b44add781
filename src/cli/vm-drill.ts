/** understudy vm drill: does the machine come up? Found out while replication goes on. */
import { Command } from 'commander'

import { OperationError, UsageError } from '../core/errors.js'
import { formatDuration, parseDuration } from '../core/units.js'
import type { DrillEvent } from '../daemon/recovery-routes.js'
import { howItEnded, type DrillResult } from '../recovery/drill-file.js'
import {
  connectTo,
  interruptSignal,
  momentOf,
  parseLimit,
  parser,
  print,
  type StateFlag,
  stateOption,
} from './options.js'

interface DrillFlags extends StateFlag {
  marker?: string
  port?: number
  timeout?: number
  every?: number | 'off'
  json?: boolean
  at?: string
}

const defaultTimeoutMs = 300_000

const help = `
Asked on the standby's host. Runs the machine on the standby's copy of all its disks, at one position, with what it writes
thrown away, and without a network, so that it meets nobody; replication goes on meanwhile. It has passed when the console
(the first serial port) has said TEXT, or a program in it accepts connections to TCP port N. Exit code 0: passed; 1: failed,
with the console's last lines. How the last ones ended is kept, and in metrics (understudy_drill_...); one that was stopped
(Ctrl-C, a 'vm start', the end of the daemon) counts neither as passed nor as failed, and ends with exit code 1.

--every repeats it from now on, also after a restart of the daemon, instead of running it at once; --every off ends that. Eight
drills may run at once. A 'vm start' of the machine ends them.

Example: understudy vm drill web1 --marker 'web1 login:' --timeout 5m
         understudy vm drill web1 --port 22 --every 24h
`

export function vmDrillCommand(): Command {
  return new Command('drill')
    .description("try a machine out on the standby's copy, while replication goes on; nothing that it writes is kept")
    .argument('<name>', "the machine's name")
    .option('--marker <text>', 'passed when the console says this')
    .option('--port <n>', 'passed when TCP port N of the guest accepts a connection', parser(parsePort))
    .option('--timeout <time>', `failed after this (default: ${formatDuration(defaultTimeoutMs)})`, parser(parseLimit))
    .option('--at <moment>', 'a position, an ISO time, -90s, or a label, instead of the newest (needs --history)')
    .option('--every <time>', "repeat it; 'off' ends that", parser(parseEvery))
    .option('--json', 'the result as JSON')
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(drill)
}

async function drill(machine: string, flags: DrillFlags): Promise<void> {
  const client = connectTo(flags)
  const { marker = '', port = 0, timeout: timeoutMs = defaultTimeoutMs, every } = flags
  if (every === 'off') {
    await client.post('/vm/repeat-drill', { machine })
    return print(`${machine}: its drills are not repeated any more`)
  }
  if (marker === '' && port === 0)
    throw new UsageError('vm drill: what is it to wait for? --marker TEXT on the console, or --port N')
  const wish = { machine, at: momentOf('vm drill', flags), marker, port, timeoutMs }
  if (every !== undefined) {
    await client.post('/vm/repeat-drill', { ...wish, everyMs: every })
    return print(`${machine}: a drill every ${formatDuration(every)} from now on`)
  }
  const signal = interruptSignal()
  for await (const event of client.stream<DrillEvent>('/vm/drill', wish, signal))
    if (event.done) return tell(machine, event.result, flags.json === true)
  throw new OperationError('DAEMON_LEFT', `vm drill ${machine}: it was ended before it came to a result`)
}

function tell(machine: string, result: DrillResult, json: boolean): void {
  if (!result.passed) process.exitCode = 1
  if (json) return print(JSON.stringify({ machine, ...result }))
  const { passed, seconds, reason, position } = result
  const at = position === null ? '' : ` at sequence ${position.sequence}`
  print(`${machine}: drill ${howItEnded(result)} after ${seconds.toFixed(1)} s${at}: ${reason}`)
  if (!passed) for (const line of result.console) print(`  | ${line}`)
}

function parsePort(text: string): number {
  const port = Number(text)
  if (!/^\d{1,5}$/.test(text) || port < 1 || port > 65_535)
    throw new UsageError(`'${text}' is not a port from 1 to 65535`)
  return port
}

const everyMinMs = 60_000

function parseEvery(text: string): number | 'off' {
  if (text === 'off') return 'off'
  const every = parseDuration(text)
  if (every < everyMinMs) throw new UsageError(`'${text}' is less than a minute`)
  return every
}
