/** understudy master: the daemon with one volume, from flags. */
import { Command } from 'commander'

import { configFromFlags } from '../core/config.js'
import { defaults } from '../core/config-types.js'
import { formatSize } from '../core/units.js'
import { flagOf, type MasterFlags, masterTree } from './flags.js'
import { addTlsOptions, repeatable, requireFlags, startDaemon } from './options.js'

const help = `
Durability says when a client's write is answered: async and flush when this host's device has it (flush: FLUSH and
FUA also wait until the standby has everything before them on its disk), received when the standby has it in memory,
durable when it is on the disks of both.
When the standby is away, continue lets clients go on without it (what it lacks is sent later), block makes them wait.
A standby that is there and slow makes clients wait when the log is full, or before with --max-lag.
With --lease two masters never answer at once: this one waits when it cannot reach its standby, whatever
--on-standby-loss says; also at its start.
SIGTERM drains to the standby and ends, a second one ends at once.

Example: understudy master --state /var/lib/understudy --device disk1.img --export disk1 --listen unix:/run/disk1.sock \\
                           --standby 3f0c...e1@standby.example:7400 --metrics 127.0.0.1:9440
         qemu-system-x86_64 -drive file=nbd+unix:///disk1?socket=/run/disk1.sock,format=raw
`

export function masterCommand(): Command {
  const command = new Command('master')
    .description('run the daemon for one volume of which this host is the master')
    .usage('--state DIR --device PATH --export NAME --listen ADDR [--standby ID@HOST:PORT] [options]')
    .option('--state <dir>', 'identity, dirty maps, control socket; made when missing')
    .option('--device <path>', 'the master device: a file or block device that nobody else has open')
    .option('--export <name>', "the volume's name, for NBD clients and on the standby")
    .option('--listen <addr>', 'for NBD clients: unix:PATH or HOST:PORT (repeatable)', repeatable)
    .option('--standby <id@host:port>', 'the standby; without it this is a plain NBD server that keeps the dirty map')
    .option('--durability <mode>', `async, flush, received or durable (default: ${defaults.durability})`)
    .option(
      '--on-standby-loss <what>',
      `what clients do without the standby: continue, block, or block:TIME, e.g. block:30s, then continue (default: ${defaults.onStandbyLoss})`,
    )
    .option(
      '--transport <name>',
      `quic, or webtransport: the same inside of TLS over TCP, for networks without UDP; slower (default: ${defaults.transport})`,
    )
    .option('--metrics <host:port>', 'serve Prometheus metrics there (default: not at all)')
    .option('--on-event <command>', 'tell this shell command what becomes of volumes (docs/operations.md)')
    .option('--read-only', 'refuse writes of clients')
    .option(
      '--direct',
      'read and write the device past the page cache (O_DIRECT): memory is left to others, and each write waits for the disk',
    )
    .option(
      '--unix-mode <mode>',
      `permissions of unix sockets (default: ${defaults.unixMode.toString(8).padStart(4, '0')})`,
    )
    .option('--unix-group <group>', 'group of unix sockets, name or number (default: that of this process)')
    .option(
      '--log-size <size>',
      `replication log in memory (default: ${formatSize(defaults.logBytes)}, at least ${formatSize(defaults.logBytesMin)}); with --log-file: the size of the file`,
    )
    .option(
      '--log-file <path>',
      `a file where the replication log goes on when ${formatSize(defaults.logBytesMin)} of memory are full, so that a longer outage keeps the exact history (default: none; needs --log-size)`,
    )
    .option(
      '--peer-timeout <time>',
      `a standby without progress for so long is away (default: ${defaults.peerTimeoutMs / 1000}s)`,
    )
    .option(
      '--lease <time>',
      'answer clients only while the standby lets us, asked again and again: without its word for so long they wait, and the standby is not promoted before (2s to 1h; default: no lease)',
    )
    .option('--replicate <what>', 'only this: partition=N (repeatable; default: everything)', repeatable)
    .option(
      '--exclude <range>',
      'not this: START-END (END not included) or START+LENGTH, e.g. 10GiB-12GiB (repeatable)',
      repeatable,
    )
    .option(
      '--exclude-files <glob>',
      'not these files: swap areas, as /swap or partition=N:/swap; docs/filters.md says more (repeatable)',
      repeatable,
    )
    .option('--only-files <glob>', 'of what can be read, no other files than these (repeatable)', repeatable)
    .option(
      '--filter-fallback <what>',
      'where a rule for files cannot be kept: refuse to start, or all is replicated (default: refuse)',
    )
    .option(
      '--drain-timeout <time>',
      `how long a stop waits for the standby (default: ${defaults.drainTimeoutMs / 1000}s)`,
    )
    .option('--packet-size <bytes>', 'UDP payload, 1200 to 60000 (default: what the path takes)')
    .option(
      '--max-lag <limit>',
      'what may be written and not yet be on the disk of the standby: 1GiB, 30s or 1GiB,30s (default: no limit)',
    )
    .option(
      '--on-max-lag <what>',
      `beyond it: block (clients wait) or detach (the standby is resynchronised later) (default: ${defaults.onMaxLag})`,
    )
    .option(
      '--bandwidth <rate>',
      'bytes a second to the standby, e.g. 50MiB; resynchronisation included (default: no limit)',
    )
    .option(
      '--compress <what>',
      `what travels to the standby: zstd, lz4 or off; for links that are slower than the hosts (default: ${defaults.compress})`,
    )
    .option('--resync-rate <rate>', 'bytes a second that a resynchronisation reads and sends (default: no limit)')
    .option('--scrub-every <time>', 'verify the volume so long after its last verify, e.g. 24h (default: when asked)')
    .option('--max-connections <n>', `NBD connections at once, 1 to 4096 (default: ${defaults.connectionsMax})`)
    .option('--insecure', 'allow plain NBD on addresses that other hosts can reach')
  return addTlsOptions(command)
    .addHelpText('after', help)
    .action(async (flags: MasterFlags) => {
      requireFlags('master', flags, ['state', 'device', 'export', 'listen'])
      await startDaemon(configFromFlags(masterTree(flags), flagOf))
    })
}
