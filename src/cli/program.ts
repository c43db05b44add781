/**
 * The command line as a whole: all commands, and how a failure ends: one line on stderr, exit code 2 for wrong usage
 * (also where commander finds it), 3 for a refusal, 1 for the rest.
 */
import { Command, CommanderError } from 'commander'

import { ConfigError, describe, exitCodeOf, UnderstudyError } from '../core/errors.js'
import { version } from '../core/version.js'
import { allowCommand, revokeCommand } from './allow.js'
import { attachCommand, detachCommand } from './attach.js'
import { checkConfigCommand } from './check-config.js'
import { exportCommand } from './export.js'
import { filterCommand } from './filter.js'
import { findCommand } from './find.js'
import { historyCommand } from './history.js'
import { identityCommand } from './identity.js'
import { markCommand } from './mark.js'
import { masterCommand } from './master.js'
import { promoteCommand } from './promote.js'
import { resolveCommand } from './resolve.js'
import { roleCommands } from './role-commands.js'
import { runCommand } from './run.js'
import { standbyCommand } from './standby.js'
import { statusCommand } from './status.js'
import { verifyCommand } from './verify.js'
import { vmCommand } from './vm.js'
import { waitCommand } from './wait.js'

const introduction = `Keeps a standby block device identical to a master block device, from userspace.

A first pair, on two hosts:
  standby$ understudy identity --state /var/lib/understudy        prints the standby's id S
  master$  understudy identity --state /var/lib/understudy        prints the master's id M
  standby$ understudy standby --state /var/lib/understudy --store /var/lib/understudy/store \\
                              --listen 0.0.0.0:7400 --allow M
  master$  understudy master  --state /var/lib/understudy --device /dev/vg0/disk1 --export disk1 \\
                              --listen unix:/run/disk1.sock --standby S@standby.example:7400
  master$  understudy wait disk1 --for protected && understudy status
Clients reach the disk at unix:/run/disk1.sock, export disk1 (NBD). 'understudy demo' shows all of it on scratch files.
`

const epilogue = `
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused for safety.
--state DIR finds the daemon to talk to (default: $UNDERSTUDY_STATE, else /var/lib/understudy). LOG=debug shows more.
'understudy COMMAND --help' explains a command with an example.
`

export function createProgram(extra: Command[] = []): Command {
  const program = new Command('understudy')
    .description(introduction)
    .addHelpText('after', epilogue)
    .version(version, '--version', 'print the version')
    .helpOption('-h, --help', 'explain')
    .helpCommand('help [command]', 'explain a command')
  const commands = [
    runCommand(),
    masterCommand(),
    standbyCommand(),
    identityCommand(),
    statusCommand(),
    waitCommand(),
    exportCommand(),
    historyCommand(),
    markCommand(),
    findCommand(),
    promoteCommand(),
    ...roleCommands(),
    resolveCommand(),
    allowCommand(),
    revokeCommand(),
    attachCommand(),
    detachCommand(),
    verifyCommand(),
    filterCommand(),
    vmCommand(),
    checkConfigCommand(),
    ...extra,
  ]
  for (const command of commands) program.addCommand(command)
  prepare(program)
  return program
}

/** Runs one command line; returns the exit code. A daemon does not return: it leaves by itself. */
export async function runProgram(program: Command, argv: string[], complain: (line: string) => void): Promise<number> {
  try {
    await program.parseAsync(argv)
    return typeof process.exitCode === 'number' ? process.exitCode : 0
  } catch (error) {
    if (error instanceof CommanderError) return endOfCommander(error, complain)
    complain(`understudy: ${oneLine(error)}`)
    return exitCodeOf(error)
  }
}

function prepare(command: Command): void {
  command.exitOverride()
  command.configureOutput({ outputError: () => undefined })
  command.configureHelp({ helpWidth: process.stdout.columns ?? 120 })
  for (const part of command.commands) prepare(part)
}

/** --help and --version end here too, with exit code 0. */
function endOfCommander(error: CommanderError, complain: (line: string) => void): number {
  if (error.exitCode === 0) return 0
  if (error.code === 'commander.help') return 2
  const what = error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ')
  complain(`understudy: ${what} (see understudy --help)`)
  return 2
}

function oneLine(error: unknown): string {
  if (error instanceof ConfigError || error instanceof UnderstudyError) return error.message.replace(/\s*\n\s*/g, ' ')
  return describe(error)
}
