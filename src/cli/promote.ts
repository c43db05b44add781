/** understudy promote: the standby's copy becomes the one that counts. */
import { Command } from 'commander'

import type { StatusDocument } from '../core/status-types.js'
import { formatDuration } from '../core/units.js'
import type { PromoteReply, PromoteRequest } from '../daemon/control-protocol.js'
import { absoluteAddress, connectTo, momentOf, parser, print, type StateFlag, stateOption } from './options.js'

interface PromoteFlags extends StateFlag {
  acceptLoss?: boolean
  force?: boolean
  listen?: string
  at?: string
}

const help = `
Asked on the standby's host. Applies everything the copy has received, takes no more from the master, and lets clients
write to it from then on; for all volumes of the group. What the master may have written since is not here, so without
--accept-loss it is refused (exit code 3), but after 'understudy demote' on the master. Make sure that no client writes
to the old master: when it comes back and has written nothing more, it follows; otherwise both sides say diverged, and
'understudy resolve' decides. A second promote is refused, but for another --listen.

With --at the copy becomes what it was at an earlier moment of its history ('understudy history --help' says how one is
written), and what came after it is thrown away: that needs --accept-loss. It is undone in place before clients are
served, in a time that goes by how much was written since. The history ends with it: look with 'understudy export --at'
or 'understudy find' first. One that is ended in the middle, with the daemon or its host, goes on at the next start.

Has the master a lease (--lease), --accept-loss waits until the last one is over, so that the two never answer at once: at
most its length and a little more from when the master was last heard, or from the start of this daemon. It goes on also
when this command is ended. --force does not wait: only when it is certain that the master does not run. On a master that
waits for a lease, because its standby is gone for good, --force lets it go on without one until a standby is there again.

Example: understudy promote disk1 --accept-loss --listen unix:/run/understudy/disk1.sock
         understudy promote disk1 --accept-loss --at "before upgrade" --listen unix:/run/understudy/disk1.sock
`

/** On stderr: what is printed otherwise is what was done. */
function sayHowLong(name: string, { volumes }: StatusDocument): void {
  const lease = volumes.find(volume => volume.name === name && volume.role === 'standby')?.lease
  if (lease === undefined || lease.secondsLeft === 0) return
  const most = formatDuration(lease.secondsLeft * 1000)
  process.stderr.write(`${name}: the lease of the master is over in ${most}; waiting (--force does not)\n`)
}

export function promoteCommand(): Command {
  return new Command('promote')
    .description('make the copy on this standby the master of its volume')
    .argument('<volume>', "the volume's name")
    .option('--accept-loss', 'needed: the master may have written more than is here, which is lost')
    .option('--force', 'do not wait for the end of the lease of the master')
    .option('--at <moment>', 'not as it is now, but as it was: a position, a time, -90s, or a label (needs --history)')
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
        at: momentOf('promote', flags),
      }
      const daemon = connectTo(flags)
      if (request.acceptLoss && !request.force) sayHowLong(volume, await daemon.status())
      const { messages } = await daemon.post<PromoteReply>('/promote', request)
      for (const message of messages) print(message)
    })
}
