/** understudy run: the daemon, from a file. */
import { Command } from 'commander'

import { loadConfig } from '../core/config.js'
import { defaults } from '../core/config-types.js'
import { UsageError } from '../core/errors.js'
import { formatSize, parseDuration } from '../core/units.js'
import { maxStall } from '../daemon/takeover-request.js'
import { parser, startDaemon } from './options.js'

const help = `
An understudy.toml (every key but state, and export and device of a volume, may be left out):
  state = "/var/lib/understudy"
  [metrics]
  listen = "127.0.0.1:9440"

  [nbd]                                   # where clients of the groups below connect
  listen = ["unix:/run/understudy.sock", "127.0.0.1:10809"]
  unix_mode = "0600"                      # and unix_group = "qemu"
  insecure = false                        # true: plain NBD on addresses other hosts can reach
  max_connections = 1024                  # over all listeners
  tls = "off"                             # off | on | require
  tls_certificates = "/etc/pki/understudy"   # with tls_verify_peer = true: clients need certificates too
  tls_psk = "/etc/understudy/keys.psk"    # instead or as well

  [[group]]                               # this host is the master of these volumes
  name = "vm1"                            # default for a single volume: its export
  standby = "ID@standby.example:7400"     # without it: a plain NBD server that keeps the dirty map
  durability = "${defaults.durability}"                    # async | flush | received | durable
  on_standby_loss = "${defaults.onStandbyLoss}"            # continue | block | block:30s (then continue)
  max_lag = "1GiB,30s"                    # and on_max_lag = "block" | "detach"; default: no limit
  log_size = "${formatSize(defaults.logBytes).replace(' ', '')}"
  log_file = "/var/lib/understudy/log1"   # the log goes on in a file of log_size; default: in memory only
  peer_timeout = "${defaults.peerTimeoutMs / 1000}s"
  drain_timeout = "${defaults.drainTimeoutMs / 1000}s"
  scrub_every = "24h"                     # default: verify when asked only
  bandwidth = "50MiB"                     # and resync_rate = "20MiB": bytes a second; default: no limit
  compress = "${defaults.compress}"                        # off | zstd | lz4: what travels to the standby
  transport = "${defaults.transport}"                      # and packet_size = 1350, default: what the path takes
  [[group.volume]]
  export = "disk1"
  device = "/dev/vg0/disk1"
  read_only = false
  direct = false                          # true: past the page cache (O_DIRECT)
  replicate = ["partition=1"]             # default: the whole device
  exclude = ["0-1MiB"]
  exclude_files = ["partition=2:/swap"]   # swap areas are left out; and only_files = [...]
  filter_fallback = "refuse"              # or "all": what a rule cannot be kept for is replicated

  [standby]                               # this host is the standby of others
  store = "/var/lib/understudy/store"
  listen = "0.0.0.0:7400"
  allow = ["ID of a master"]
  history = "24h,100GiB"                  # keep every earlier moment so long, up to such a size; default: none
  staging_size = "20GiB"                  # what a resynchronisation may collect; default: what the disk has
  [standby.devices]
  disk7 = "/dev/vg0/disk7"                # instead of STORE/disk7/image.raw

--takeover starts beside the daemon that runs on the same state directory, with the same groups and addresses, and goes
on in its place: for a new version, or settings that need a restart. Clients keep their connections (but TLS ones) and
wait for a moment: at most --max-stall, or the old daemon takes them back. When it does not work out the old daemon
goes on, and this one says why and ends.

docs/examples/understudy.toml explains every key. SIGHUP reads the file again: groups, listeners, filters, allow. SIGTERM drains and ends, a second SIGTERM ends at once.
Example: understudy check-config understudy.toml && understudy run --config understudy.toml
`

export function runCommand(): Command {
  return new Command('run')
    .description('run the daemon: many groups, in either role, from one understudy.toml')
    .option('--config <file>', 'the configuration', '/etc/understudy/understudy.toml')
    .option('--takeover', 'go on in place of the daemon that runs; its clients notice nothing')
    .option('--max-stall <time>', 'with --takeover: how long clients may wait (default: 500ms)', parser(parseStall))
    .addHelpText('after', help)
    .action(async ({ config, takeover, maxStall: wanted }: RunFlags) => {
      if (wanted !== undefined && takeover !== true)
        throw new UsageError('run: --max-stall says how long clients may wait for a --takeover, which is not asked for')
      const maxStallMs = wanted ?? maxStall.otherwiseMs
      await startDaemon(loadConfig(config), takeover === true ? { maxStallMs } : {})
    })
}

interface RunFlags {
  config: string
  takeover?: boolean
  maxStall?: number
}

function parseStall(text: string): number {
  const milliseconds = parseDuration(text)
  const { leastMs, mostMs } = maxStall
  if (milliseconds >= leastMs && milliseconds <= mostMs) return milliseconds
  throw new UsageError(`'${text}' is not between ${leastMs}ms and ${mostMs / 1000}s`)
}
