/** understudy attach and detach: a volume as a block device of the master's own host. */
import { Command } from 'commander'

import { parseDuration } from '../core/units.js'
import type { DetachReply } from '../daemon/control-protocol.js'
import { connectTo, parser, print, type StateFlag, stateOption } from './options.js'

const attachHelp = `
Asked on the master's host; the daemon and its kernel's NBD client (modprobe nbd) must have root. While no daemon runs, or
none serves the volume, whoever uses the device waits; the next daemon connects it again by itself, also after the host was
restarted. Waiting ends with I/O errors after --dead-timeout. The daemon is kept from waiting for memory that only it could
free (it needs CAP_SYS_RESOURCE and CAP_IPC_LOCK). Refused (exit code 3) when the device or the volume is in use already.

Example: understudy attach disk1 /dev/nbd0 && mount /dev/nbd0 /srv
`

const detachHelp = `
Refused (exit code 3) while the device is mounted or otherwise in use. Without a daemon: nbd-client -d /dev/nbdN

Example: umount /srv && understudy detach /dev/nbd0
`

export function attachCommand(): Command {
  return new Command('attach')
    .description("make a volume a block device of this host, by the kernel's NBD client")
    .argument('<volume>', 'a volume that this host is the master of')
    .argument('<device>', '/dev/nbdN')
    .option(
      '--dead-timeout <time>',
      'how long the kernel waits for a daemon before I/O fails',
      parser(parseDuration),
      86_400_000,
    )
    .addOption(stateOption())
    .addHelpText('after', attachHelp)
    .action(async (volume: string, device: string, flags: StateFlag & { deadTimeout: number }) => {
      await connectTo(flags).post('/attach', { volume, device, deadMs: flags.deadTimeout })
      print(`${volume} is attached as ${device}`)
    })
}

export function detachCommand(): Command {
  return new Command('detach')
    .description('take a block device of attach away again')
    .argument('<device>', '/dev/nbdN, or the volume')
    .option('--force', 'also while it is in use: its users get I/O errors')
    .addOption(stateOption())
    .addHelpText('after', detachHelp)
    .action(async (name: string, flags: StateFlag & { force?: boolean }) => {
      const { device } = await connectTo(flags).post<DetachReply>('/detach', { name, force: flags.force === true })
      print(`${device} is detached`)
    })
}
