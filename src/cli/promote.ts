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
Applies everything the standby has, and takes no more from the master. Without proof that nothing newer exists on the
master this is refused (exit code 3); --accept-loss says that what may be missing may be lost.

Example: understudy promote disk1 --accept-loss --listen unix:/run/understudy/disk1.sock
`

export function promoteCommand(): Command {
  return new Command('promote')
    .description('make the standby the master')
    .argument('<volume>', "the volume's name")
    .option('--accept-loss', 'go on although the master may have written more')
    .option('--force', 'go on although the master may still be running')
    .option('--listen <addr>', 'serve it at unix:PATH or HOST:PORT, also after a restart', parser(absoluteAddress))
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
