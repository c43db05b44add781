/** understudy identity: this host's id, making its key at the first call; rotate puts another in its place. */
import { resolve } from 'node:path'
import { Command } from 'commander'

import { OperationError } from '../core/errors.js'
import type { RotateReply } from '../daemon/control-protocol.js'
import { loadIdentity } from '../daemon/identity.js'
import { lockStateDirectory, prepareStateDirectory } from '../daemon/state-directory.js'
import { addon } from '../native/binding.js'
import { connectTo, print, type StateFlag, stateOption } from './options.js'

const help = `
Needs no daemon. The id is what the other host names in --standby ID@HOST:PORT or --allow ID. The key stays in DIR/identity/key.pem.

Example: understudy identity --state /var/lib/understudy
`

const rotateHelp = `
A new key, and so a new id, without a restart and without a resynchronisation; prints the new id. Sessions go on; the next
ones show the new key with an endorsement by the old one, so that peers know this host by either id. Then on the peers:
  a standby:  understudy allow NEW_ID; understudy revoke OLD_ID
  a master:   --standby NEW_ID@HOST:PORT (standby = ... of its group), and a restart
and here: understudy identity rotate --finish
The old key is gone at once. Refused (exit code 3) while another rotation is not finished.

Example: understudy identity --state /var/lib/understudy rotate
`

export function identityCommand(): Command {
  return new Command('identity')
    .description("print this host's id (its key's fingerprint), making the key once; or rotate the key")
    .addOption(stateOption())
    .addHelpText('after', help)
    .action((flags: StateFlag) => {
      const state = resolve(flags.state)
      prepareStateDirectory(state)
      const { id, formerId } = loadIdentity(state, addon())
      print(id)
      if (formerId !== '') process.stderr.write(`being rotated: ${formerId} is this host's id too\n`)
    })
    .addCommand(rotateCommand())
}

function rotateCommand(): Command {
  return new Command('rotate')
    .description("replace this host's key; the old id holds too until --finish")
    .option('--finish', 'every peer names the new id: the old one holds no longer')
    .addHelpText('after', rotateHelp)
    .action(async (_flags: object, command: Command) => {
      const { state, finish } = command.optsWithGlobals<StateFlag & { finish?: boolean }>()
      const { id, formerId } = await rotate(resolve(state), finish === true)
      print(id)
      if (formerId !== '')
        process.stderr.write(
          `in the place of ${formerId}; on the peers: understudy allow ${id}, or --standby ${id}@...\n`,
        )
    })
}

/** By the daemon, which has its key in memory; without one, here. */
async function rotate(state: string, finish: boolean): Promise<RotateReply> {
  try {
    return await connectTo({ state }).post<RotateReply>('/rotate', { finish })
  } catch (error) {
    if (!(error instanceof OperationError) || error.code !== 'NO_DAEMON') throw error
  }
  prepareStateDirectory(state)
  const lock = lockStateDirectory(state)
  try {
    const identity = loadIdentity(state, addon())
    if (finish) identity.finish(state, addon())
    else identity.rotate(state, addon())
    return { id: identity.id, formerId: identity.formerId }
  } finally {
    lock.release()
  }
}
