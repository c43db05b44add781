/** understudy standby: the daemon as a standby, from flags. */
import { Command, InvalidArgumentError } from 'commander'

import { configFromFlags } from '../core/config.js'
import { defaults } from '../core/config-types.js'
import { formatSize } from '../core/units.js'
import { flagOf, type StandbyFlags, standbyTree } from './flags.js'
import { addTlsOptions, repeatable, requireFlags, startDaemon } from './options.js'

const help = `
A volume's copy is STORE/VOLUME/image.raw. It is a cut of the master's history when this daemon is stopped; while it
runs, 'understudy export VOLUME' serves a frozen copy. SIGTERM applies what was received and ends.

Example: understudy standby --state /var/lib/understudy --store /srv/understudy --listen 0.0.0.0:7400 --allow 9d41...07
         understudy wait disk1 --for usable
`

export function standbyCommand(): Command {
  const command = new Command('standby')
    .description('run the daemon as the standby of other hosts')
    .usage('--state DIR --store DIR --listen HOST:PORT --allow ID [options]')
    .option('--state <dir>', 'identity, control socket; made when missing')
    .option('--store <dir>', 'the copies and their logs; made when missing')
    .option('--listen <host:port>', 'where masters connect (UDP, encrypted)')
    .option(
      '--allow <id>',
      "a master that may replicate here, by its id as 'understudy identity' prints it (repeatable)",
      repeatable,
    )
    .option(
      '--transport <name>',
      `what masters may come by: quic (UDP only), or webtransport or both: also TCP at the same port number, for
      networks without UDP (default: ${defaults.standbyTransport})`,
    )
    .option('--device <volume=path>', 'keep this volume on a block device instead of a file (repeatable)', volumeDevice)
    .option('--metrics <host:port>', 'serve Prometheus metrics there (default: not at all)')
    .option('--on-event <command>', 'tell this shell command what becomes of volumes (docs/operations.md)')
    .option(
      '--staging-size <size>',
      `what a resynchronisation may collect beside the copy, at least ${formatSize(defaults.stagingBytesMin)}; beyond it the operator is asked (default: what the disk has)`,
    )
    .option(
      '--cache-size <size>',
      `keep as much of the copies in memory, locked; the least recently used give way, those in use or being written
      never (default: none; docs/recovery.md)`,
    )
    .option(
      '--history <limits>',
      `keep every earlier moment (docs/time-travel.md) so long, or up to such a size of each group, at least
      ${formatSize(defaults.historyBytesMin)}, or both: 24h, 100GiB, 24h,100GiB (default: only what the copy shows)`,
    )
    .option(
      '--drain-timeout <time>',
      `how long a stop waits until everything is applied (default: ${defaults.drainTimeoutMs / 1000}s)`,
    )
  return addTlsOptions(command)
    .addHelpText('after', help)
    .action(async (flags: StandbyFlags) => {
      requireFlags('standby', flags, ['state', 'store', 'listen', 'allow'])
      await startDaemon(configFromFlags(standbyTree(flags), flagOf))
    })
}

function volumeDevice(text: string, before: string[] | undefined): string[] {
  const equals = text.indexOf('=')
  if (equals <= 0 || equals === text.length - 1) throw new InvalidArgumentError('It is written VOLUME=PATH.')
  const name = text.slice(0, equals)
  if (before?.some(other => other.startsWith(`${name}=`)) === true)
    throw new InvalidArgumentError(`'${name}' was given before.`)
  return repeatable(text, before)
}
