/** understudy mark: the present moment gets a name in the standby's history. */
import { Command } from 'commander'

import type { MarkRequest, PointDocument } from '../daemon/control-protocol.js'
import { connectTo, print, type StateFlag, stateOption } from './options.js'
import { positionText, shortTime } from './timeline.js'

const help = `
Asked on either side; the standby, which was started with --history, notes it. On the master's host the moment holds all
that clients were told is written when this command began; the command returns when the standby has all of that, and the
mark, on disk. On the standby's host it is what the copy holds. What a client's own kernel has not written yet is not in
it: run sync there first.

Example: understudy mark disk1 "before upgrade"
         understudy export disk1 --at "before upgrade" --listen unix:/tmp/before.sock
`

export function markCommand(): Command {
  return new Command('mark')
    .description('give the present moment a name in the history that the standby keeps')
    .argument('<volume>', "the volume's name; all volumes of its group have the same moments")
    .argument('<label>', 'what it is to be called')
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(async (volume: string, label: string, flags: StateFlag) => {
      const point = await connectTo(flags).post<PointDocument>('/mark', { volume, label } satisfies MarkRequest)
      print(`${volume}: '${point.label}' is ${positionText(point)}, ${shortTime(point.time)}`)
    })
}
