/** understudy vm start, vm stop: a machine on stage. */
import { Command } from 'commander'

import { UsageError } from '../core/errors.js'
import { formatDuration, parseDuration } from '../core/units.js'
import type { MessagesReply } from '../daemon/control-protocol.js'
import type { Started, StartRequest } from '../recovery/runs.js'
import { quoteWord } from '../recovery/shell-words.js'
import { connectTo, momentOf, parser, print, type StateFlag, stateOption } from './options.js'

interface StartFlags extends StateFlag {
  acceptLoss?: boolean
  force?: boolean
  print?: boolean
  throwAway?: boolean
  at?: string
}

const startHelp = `
Asked on the standby's host. Promotes the machine's group, as 'understudy promote' does and by its rules (--accept-loss,
--force), serves its disks, and runs QEMU on them. What the machine writes is replicated like any master's, so that the
old master can follow. A group that was promoted already is not promoted again. QEMU outlives the daemon: while none
serves its disks, the machine waits for five minutes.

With --at the group is promoted as of an earlier moment of its history, and what came after it is thrown away: see
'understudy promote --help'. The machine starts when that is undone.

With --throw-away nothing is promoted: the machine runs on the standby's copy, without a network, while replication goes
on; what it writes is gone when it ends, and it ends with the daemon. With --at it is the copy of that moment.

With --print QEMU is not started, and what to run is printed: for another hypervisor, or by hand. 'vm stop' when it is over.

Example: understudy vm start web1 --accept-loss
         socat - unix-connect:STORE/.groups/web1/running/web1/console
`

export function vmStartCommand(): Command {
  return new Command('start')
    .description('put a machine on stage: promote its group, and run QEMU on its disks')
    .argument('<name>', "the machine's name")
    .option('--accept-loss', 'the master may have written more than is here, which is lost (see promote)')
    .option('--force', 'do not wait for the end of the lease of the master')
    .option('--print', 'do not run QEMU; print its command line')
    .option('--throw-away', "run on the standby's copy instead, without a promotion; nothing that it writes is kept")
    .option('--at <moment>', 'not as it is now, but as it was: a position, a time, -90s, or a label (needs --history)')
    .addOption(stateOption())
    .addHelpText('after', startHelp)
    .action(async (machine: string, flags: StartFlags) => {
      if (flags.throwAway === true && (flags.print === true || flags.acceptLoss === true || flags.force === true))
        throw new UsageError(
          'vm start: --throw-away promotes nothing; --print, --accept-loss and --force do not go with it',
        )
      const request: StartRequest = {
        machine,
        acceptLoss: flags.acceptLoss ?? false,
        force: flags.force ?? false,
        print: flags.print ?? false,
        throwAway: flags.throwAway ?? false,
        at: momentOf('vm start', flags),
      }
      const started = await connectTo(flags).post<Started>('/vm/start', request)
      if (request.print) {
        for (const message of started.messages) process.stderr.write(`${message}\n`)
        return print(started.command.map(quoteWord).join(' '))
      }
      for (const message of started.messages) print(message)
      print(`${machine}: runs (process ${started.pid}); its serial console is unix:${started.console}`)
    })
}

const stopHelp = `
Presses the machine's power button, and waits until it has powered off. With --force its plug is pulled instead. Its group
stays promoted; 'understudy switchover' gives the reign back once the other host follows.

Example: understudy vm stop web1 --timeout 2m
`

const defaultStopMs = 60_000

export function vmStopCommand(): Command {
  return new Command('stop')
    .description('end a machine that was started here')
    .argument('<name>', "the machine's name")
    .option('--force', 'pull its plug')
    .option(
      '--timeout <time>',
      `how long it may take to power off (default: ${formatDuration(defaultStopMs)})`,
      parser(parseDuration),
    )
    .addOption(stateOption())
    .addHelpText('after', stopHelp)
    .action(async (machine: string, flags: StateFlag & { force?: boolean; timeout?: number }) => {
      const request = { machine, force: flags.force ?? false, timeoutMs: flags.timeout ?? defaultStopMs }
      const { messages } = await connectTo(flags).post<MessagesReply>('/vm/stop', request)
      for (const message of messages) print(message)
    })
}
