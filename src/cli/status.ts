/** understudy status: every volume of a daemon, for people, for programs, and as a check. */
import { Command } from 'commander'

import { OperationError } from '../core/errors.js'
import type { StatusDocument } from '../core/status-types.js'
import { connectTo, print, type StateFlag, stateOption } from './options.js'
import { statusTable } from './status-table.js'
import { clearTerminal, watch } from './watch.js'

interface StatusFlags extends StateFlag {
  json?: boolean
  watch?: boolean
  check?: boolean
}

const help = `
STATE      initial-sync the first copy is being made; replicating; resyncing what the standby lacks is being sent;
           detached no session with the other side; diverged the standby was promoted; alone no standby is configured
PROTECTED  what the durability promises holds now, and nothing is dirty
USABLE     the standby's copy can be exported and promoted
LAG        what the standby has not applied yet: bytes, and age of the oldest
DIRTY      what may differ and must be compared or sent again
In the JSON document records are counted as decimal strings; docs/operations.md explains every field.

Example: understudy status --state /var/lib/understudy
         understudy status --check || mail -s 'a volume is not protected' root
`

export function statusCommand(): Command {
  return new Command('status')
    .description('show the volumes of a daemon')
    .option('--json', 'the whole document, for programs')
    .option('--watch', 'again every second, until Ctrl-C')
    .option('--check', 'exit code 1 if any volume is unprotected')
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(showStatus)
}

async function showStatus(flags: StatusFlags): Promise<void> {
  const client = connectTo(flags)
  if (flags.watch === true) {
    const again = (document: StatusDocument): void => {
      if (flags.json !== true) clearTerminal()
      show(document, flags)
    }
    return watch({ read: signal => client.status(signal), show: again, pauseMs: () => 1000 })
  }
  const document = await client.status()
  if (flags.check === true) return check(document, flags)
  show(document, flags)
}

function show(document: StatusDocument, flags: StatusFlags): void {
  print(flags.json === true ? JSON.stringify(document) : statusTable(document, new Date()))
}

/** Silent when all is well, unless the document was asked for. */
function check(document: StatusDocument, flags: StatusFlags): void {
  if (flags.json === true) show(document, flags)
  const unprotected = document.volumes.filter(volume => !volume.protected)
  if (unprotected.length > 0) {
    const names = unprotected.map(
      volume => `${volume.name} is ${volume.state}${volume.reason === '' ? '' : ` (${volume.reason})`}`,
    )
    throw new OperationError('UNPROTECTED', `status: not protected: ${names.join('; ')}`)
  }
  if (flags.json !== true)
    print(`protected: ${document.volumes.map(volume => volume.name).join(', ') || 'there are no volumes'}`)
}
