/** understudy identity: this host's id, making its key at the first call. Needs no daemon. */
import { resolve } from 'node:path'
import { Command } from 'commander'

import { loadIdentity } from '../daemon/identity.js'
import { prepareStateDirectory } from '../daemon/state-directory.js'
import { addon } from '../native/binding.js'
import { print, type StateFlag, stateOption } from './options.js'

const help = `
Needs no daemon. The id is what the other host names in --standby ID@HOST:PORT or --allow ID. The key stays in DIR/identity/key.pem.

Example: understudy identity --state /var/lib/understudy
`

export function identityCommand(): Command {
  return new Command('identity')
    .description("print this host's id (its key's fingerprint), making the key once")
    .addOption(stateOption())
    .addHelpText('after', help)
    .action((flags: StateFlag) => {
      const state = resolve(flags.state)
      prepareStateDirectory(state)
      print(loadIdentity(state, addon()).id)
    })
}
