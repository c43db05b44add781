/** understudy promote: the standby's copy becomes the one that counts. */
import { Command } from 'commander'

import type { PromoteReply, PromoteRequest } from '../daemon/control-protocol.js'
import { absoluteAddress, connectTo, parser, print, type StateFlag, stateOption } from './options.js'

interface PromoteFlags extends StateFlag {
  acceptLoss?: boolean
  force?: boolean
  listen?: string
}

const help = `
Asked on the standby's host. Applies everything the copy has received, takes no more from the master, and lets clients
write to it from then on; for all volumes of the group. What the master may have written since is not here, so without
--accept-loss it is refused (exit code 3), but after 'understudy demote' on the master. Make sure that no client writes
to the old master: when it comes back and has written nothing more, it follows; otherwise both sides say diverged, and
'understudy resolve' decides. A second promote is refused, but for another --listen.

Example: understudy promote disk1 --accept-loss --listen unix:/run/understudy/disk1.sock
`

export function promoteCommand(): Command {
  return new Command('promote')
    .description('make the copy on this standby the master of its volume')
    .argument('<volume>', "the volume's name")
    .option('--accept-loss', 'needed: the master may have written more than is here, which is lost')
    .option('--force', 'has no effect yet; --accept-loss also covers a master that still runs')
    .option(
      '--listen <addr>',
      'where clients reach it, unix:PATH or HOST:PORT, also after a restart (default: nowhere)',
      parser(absoluteAddress),
    )
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(async (volume: string, flags: PromoteFlags) => {
      const request: PromoteRequest = {
        volume,
        acceptLoss: flags.acceptLoss ?? false,
        force: flags.force ?? false,
        listen: flags.listen ?? '',
      }
      const { messages } = await connectTo(flags).post<PromoteReply>('/promote', request)
      for (const message of messages) print(message)
    })
}
