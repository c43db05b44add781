/** understudy resolve: of two histories that have diverged, one goes on. */
import { Command, Option } from 'commander'

import { UsageError } from '../core/errors.js'
import type { MessagesReply, ResolveRequest } from '../daemon/control-protocol.js'
import { connectTo, print, type StateFlag, stateOption } from './options.js'

interface ResolveFlags extends StateFlag {
  keep?: ResolveRequest['keep']
}

const help = `
Asked on either side, when its status says diverged. The side that is not kept first saves what only it may have to a
file below its store (.saved/), which 'understudy export VOLUME --saved' serves read-only; then it follows the other:
what either side wrote since they parted is compared, and the kept side's contents are sent.
Its clients are cut off. Refused (exit code 3) when nothing is in doubt.

Example: understudy resolve disk1 --keep peer
         understudy export disk1 --saved --listen unix:/tmp/lost.sock
`

export function resolveCommand(): Command {
  return new Command('resolve')
    .description('decide which of two diverged sides goes on; what only the other has is saved first')
    .argument('<volume>', "the volume's name; all volumes of its group go with it")
    .addOption(new Option('--keep <side>', 'whose data goes on').choices(['local', 'peer']))
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(async (volume: string, flags: ResolveFlags) => {
      if (flags.keep === undefined) throw new UsageError('resolve: say whose data goes on: --keep local or --keep peer')
      const request: ResolveRequest = { volume, keep: flags.keep }
      const { messages } = await connectTo(flags).post<MessagesReply>('/resolve', request)
      for (const message of messages) print(message)
    })
}
