/** understudy check-config: what a configuration would run, and everything that is wrong with it. Needs no daemon. */
import { Command } from 'commander'

import { readConfigFile } from '../core/config.js'
import { type Config, formatStandbyLoss, type GroupConfig } from '../core/config-types.js'
import { ConfigError } from '../core/errors.js'
import { formatAddress, formatDuration, formatHostPort, formatPeer, formatRange, formatSize } from '../core/units.js'
import { deviceProblems, filterProblems, tlsProblems } from '../daemon/preflight.js'
import { print } from './options.js'

const help = `
Prints every problem with line and key (exit code 2), or what would be run (exit code 0). Nothing is opened or written;
that devices exist is looked at, that they are free is not.

Example: understudy check-config /etc/understudy/understudy.toml
`

export function checkConfigCommand(): Command {
  return new Command('check-config')
    .description('say what an understudy.toml would run, and what is wrong with it')
    .argument('<file>', 'the configuration')
    .addHelpText('after', help)
    .action(checkConfig)
}

function checkConfig(file: string): void {
  const { config, problems } = readConfigFile(file)
  const lines = problems.map(problem => problem.message)
  if (problems.length === 0)
    lines.push(
      ...[...deviceProblems(config), ...filterProblems(config), ...tlsProblems(config)].map(
        problem => `${file}: ${problem}`,
      ),
    )
  const last = lines.pop()
  if (last === undefined) return plan(config).forEach(print)
  for (const line of lines) process.stderr.write(`understudy: ${line}\n`)
  throw new ConfigError(last)
}

function plan(config: Config): string[] {
  const lines = [`state ${config.state}`]
  if (config.metrics !== undefined) lines.push(`metrics at ${formatHostPort(config.metrics)}`)
  for (const address of config.nbd.listen) lines.push(`NBD at ${formatAddress(address)}${tlsPlan(config)}`)
  for (const group of config.groups) lines.push(...groupPlan(group))
  if (config.standby !== undefined) {
    const { listen, store, allow, devices } = config.standby
    lines.push(
      `standby${listen === undefined ? '' : ` at ${formatHostPort(listen)}`}, store ${store}, for ${allow.length} master${allow.length === 1 ? '' : 's'}`,
    )
    for (const id of allow) lines.push(`  allows ${id}`)
    for (const [volume, device] of devices) lines.push(`  volume ${volume} on ${device}`)
  }
  return lines
}

function tlsPlan(config: Config): string {
  const { tls } = config.nbd
  if (tls === undefined) return ''
  const means = [...(tls.certificates === undefined ? [] : ['certificates']), ...(tls.psk === undefined ? [] : ['PSK'])]
  const clients = tls.verifyPeer ? ', clients need a certificate' : ''
  return `, TLS ${tls.required ? 'required' : 'offered'} (${means.join(' and ')}${clients})`
}

function groupPlan(group: GroupConfig): string[] {
  const peer = group.standby === undefined ? 'without a standby' : `standby ${formatPeer(group.standby)}`
  const policy = `durability ${group.durability}, on standby loss ${formatStandbyLoss(group.standbyLoss)}`
  const log =
    group.logFile === undefined
      ? formatSize(group.logBytes)
      : `${formatSize(group.logBytes)} and ${formatSize(group.logFile.bytes)} in ${group.logFile.path}`
  const lease = group.leaseMs === undefined ? '' : `, lease ${formatDuration(group.leaseMs)}`
  const limits = `log ${log}, peer timeout ${formatDuration(group.peerTimeoutMs)}${lease}`
  const scrub = group.scrubEveryMs === undefined ? '' : `, scrub every ${formatDuration(group.scrubEveryMs)}`
  const lines = [`master of group ${group.name}: ${peer}, ${policy}, ${limits}${scrub}`]
  for (const volume of group.volumes) {
    const only = volume.partitions.length === 0 ? '' : `, only partitions ${volume.partitions.join(', ')}`
    const without = volume.exclude.length === 0 ? '' : `, without ${volume.exclude.map(formatRange).join(', ')}`
    const how = `${volume.readOnly ? ', read-only' : ''}${volume.direct ? ', direct' : ''}`
    const { files } = volume
    const rules = [
      ...(files?.exclude ?? []).map(glob => `, without files ${glob}`),
      ...(files?.only ?? []).map(glob => `, only files ${glob}`),
    ]
    lines.push(`  volume ${volume.name} on ${volume.device}${how}${only}${without}${rules.join('')}`)
  }
  return lines
}
