/** demote, switchover, pause, resume, invalidate: one volume, one line of what was done each. */
import { Command } from 'commander'

import type { InvalidateRequest, MessagesReply } from '../daemon/control-protocol.js'
import { connectTo, print, type StateFlag, stateOption } from './options.js'

interface RoleCommand {
  name: string
  description: string
  help: string
  /** A flag of its own, and its name in the request. */
  flag?: { flags: string; description: string }
}

const commands: RoleCommand[] = [
  {
    name: 'switchover',
    description: 'planned: swap the roles of the two hosts; nothing is lost',
    help: `
Asked on the master's host, while it replicates. Takes nothing new from clients, waits until the standby has everything,
and hands the reign over; this host follows from then on. Clients find the volume at the other host (its --listen, or
where it was promoted last), after one reconnect. Refused (exit code 3) while the standby lacks anything. If the other
side does not take over, this side goes on. While a machine runs on the volume ('understudy vm start') it is refused.

Example: understudy switchover disk1
`,
  },
  {
    name: 'demote',
    description: 'cease to be the master; the standby has everything, and nobody reigns until one side is promoted',
    help: `
Asked on the master's host, while it replicates. As switchover, but for the last step: afterwards
'understudy promote VOLUME', on either side and without --accept-loss, makes that side the master. While a machine runs on
the volume ('understudy vm start') it is refused.

Example: understudy demote disk1
`,
  },
  {
    name: 'pause',
    description: 'no replication until resume, also after a restart',
    help: `
Asked on either side. Clients go on; what they write is kept in the log, then in the dirty map. Flushes do not wait for
the standby and count as alone (unless --on-standby-loss block).

Example: understudy pause disk1
`,
  },
  {
    name: 'resume',
    description: 'end a pause',
    help: `
Asked on the side that was paused.

Example: understudy resume disk1
`,
  },
  {
    name: 'invalidate',
    description: "believe nothing of the standby's copy: compare all of it, and send what differs",
    flag: { flags: '--in-place', description: 'give the cut up instead, when it cannot be kept beside what is sent' },
    help: `
Asked on either side. The copy stays the last cut, and usable, until the comparison is complete. With --in-place, on
the standby's side, it is not compared anew, but no longer kept as a cut either: what it lacks goes straight into it, and
it cannot be exported or promoted before it is complete. So it needs no room for staging (--staging-size).

Example: understudy invalidate disk1 && understudy wait disk1 --for protected
`,
  },
]

export function roleCommands(): Command[] {
  return commands.map(({ name, description, help, flag }) => {
    const command = new Command(name)
      .description(description)
      .argument('<volume>', "the volume's name; all volumes of its group go with it")
    if (flag !== undefined) command.option(flag.flags, flag.description)
    return command
      .addOption(stateOption())
      .addHelpText('after', help)
      .action(async (volume: string, { inPlace, ...flags }: StateFlag & { inPlace?: boolean }) => {
        const request: InvalidateRequest = { volume, ...(inPlace === undefined ? {} : { inPlace }) }
        const { messages } = await connectTo(flags).post<MessagesReply>(`/${name}`, request)
        for (const message of messages) print(message)
      })
  })
}
