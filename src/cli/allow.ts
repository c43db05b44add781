/** understudy allow and revoke: which masters a running standby hears, kept across its restarts. */
import { Command } from 'commander'

import { parseId } from '../core/units.js'
import { connectTo, parser, print, type StateFlag, stateOption } from './options.js'

const allowHelp = `
Asked on the standby's host; takes effect at once and outlives restarts. It also takes back what 'revoke' did.

Example: understudy allow 9d41...07
`

const revokeHelp = `
Asked on the standby's host. The master's sessions end at once; it is refused from then on, also after a restart and
whatever --allow or the configuration list, until 'understudy allow' takes it back. Its copies stay, usable.

Example: understudy revoke 9d41...07
`

export function allowCommand(): Command {
  return new Command('allow')
    .description('let a master replicate to this standby, by its id')
    .argument('<id>', "as 'understudy identity' prints it on the master", parser(parseId))
    .addOption(stateOption())
    .addHelpText('after', allowHelp)
    .action(async (id: string, flags: StateFlag) => {
      await connectTo(flags).post('/allow', { id })
      print(`${id} is allowed`)
    })
}

export function revokeCommand(): Command {
  return new Command('revoke')
    .description('shut a master out of this standby, by its id')
    .argument('<id>', 'its id', parser(parseId))
    .addOption(stateOption())
    .addHelpText('after', revokeHelp)
    .action(async (id: string, flags: StateFlag) => {
      await connectTo(flags).post('/revoke', { id })
      print(`${id} is revoked; its sessions are ended`)
    })
}
