/** understudy verify: both sides compared online. */
import { Command } from 'commander'

import { OperationError } from '../core/errors.js'
import type { VerifyEvent } from '../daemon/control-protocol.js'
import { connectTo, interruptSignal, print, type StateFlag, stateOption } from './options.js'

const help = `
Asked on the master's host. Every chunk is hashed at one position of the history on both sides, so clients may go on writing
and there is no false alarm. Differences are listed in the daemon's log.

Example: understudy verify disk1
`

export function verifyCommand(): Command {
  return new Command('verify')
    .description('compare both sides of a volume online, by hash; exit code 1 when they differ')
    .argument('<volume>', "the volume's name")
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(verifyVolume)
}

async function verifyVolume(volume: string, flags: StateFlag): Promise<void> {
  const signal = interruptSignal()
  for await (const event of connectTo(flags).stream<VerifyEvent>('/verify', { volume }, signal)) {
    if (!event.done) continue
    if (event.different > 0) {
      throw new OperationError(
        'DIFFERENT',
        `verify: volume '${volume}': ${event.different} of ${event.chunks} chunks differ; the daemon's log lists them`,
      )
    }
    return print(`${volume}: ${event.chunks} chunks, all equal`)
  }
  throw new OperationError('INTERRUPTED', signal.aborted ? 'verify: interrupted' : 'verify: the daemon ended meanwhile')
}
