/** understudy vm: machines whose copies this standby keeps, so that they can be put on stage here. */
import { Command, InvalidArgumentError, Option } from 'commander'

import type { MessagesReply } from '../daemon/control-protocol.js'
import { parseSize } from '../core/units.js'
import { diskBuses, firmwares } from '../recovery/definition.js'
import type { MachinesDocument } from '../recovery/listing.js'
import { diskSources } from '../recovery/machines.js'
import { splitWords } from '../recovery/shell-words.js'
import { connectTo, parser, print, repeatable, requireFlags, type StateFlag, stateOption } from './options.js'
import { vmDrillCommand } from './vm-drill.js'
import { vmStartCommand, vmStopCommand } from './vm-start.js'
import { machineTable } from './vm-table.js'

interface AddFlags extends StateFlag {
  group: string
  memory: number
  firmware: string
  cpus: number
  bus: string
  qemuArgs?: string[]
}

const help = `
Asked on the standby's host. A machine is a group, all volumes of which are its disks, and what a hypervisor needs to run
them. docs/recovery.md says how it is put on stage, and what other hypervisors may read of it.

Example: understudy vm add web --group web --memory 2G --firmware bios --state /var/lib/understudy
         understudy vm list --state /var/lib/understudy
`

export function vmCommand(): Command {
  return new Command('vm')
    .description('machines whose disks this standby has: what it takes to run them here')
    .addHelpText('after', help)
    .addCommand(addCommand())
    .addCommand(removeCommand())
    .addCommand(listCommand())
    .addCommand(showCommand())
    .addCommand(vmStartCommand())
    .addCommand(vmStopCommand())
    .addCommand(vmDrillCommand())
}

const addHelp = `
Written beside the group's images: the definition, a libvirt domain XML, a command line of QEMU, and descriptions of each
image.raw as VMDK and qcow2. No byte of an image is copied. The disks are those of the group, in its order; the first one
boots. --qemu-args is one string that is split as a shell does, and may be given several times.

Example: understudy vm add web --group web --memory 2G --firmware uefi --cpus 2 --qemu-args '-nic user,model=virtio'
`

function addCommand(): Command {
  return new Command('add')
    .description('define the machine whose disks are the volumes of a group')
    .argument('<name>', "the machine's name")
    .option('--group <name>', 'whose volumes are its disks (needed)')
    .option('--memory <size>', 'for example 2G (needed)', parser(parseSize))
    .addOption(new Option('--firmware <kind>', 'what it boots with (needed)').choices(firmwares))
    .option('--cpus <n>', 'how many processors', parseCount, 1)
    .addOption(
      new Option('--bus <kind>', 'of its disks: virtio is faster, sata needs no driver')
        .choices(diskBuses)
        .default('virtio'),
    )
    .option('--qemu-args <words>', 'more arguments for QEMU: network, console', repeatable)
    .addOption(stateOption())
    .addHelpText('after', addHelp)
    .action(async (name: string, flags: AddFlags) => {
      requireFlags('vm add', flags, ['group', 'memory', 'firmware'])
      const { group, memory: memoryBytes, firmware, cpus, bus } = flags
      const qemuArguments = (flags.qemuArgs ?? []).flatMap(splitWords)
      await ask(flags, '/vm/add', { name, group, memoryBytes, firmware, cpus, bus, qemuArguments })
    })
}

function removeCommand(): Command {
  return new Command('remove')
    .description('forget a machine; its disks and their replication stay')
    .argument('<name>', "the machine's name")
    .addOption(stateOption())
    .action((name: string, flags: StateFlag) => ask(flags, '/vm/remove', { name }))
}

const listHelp = `
FRESHNESS   what its disks lack of the master's, as 'understudy status' says it; or why the copy cannot be used
RESIDENT    how much of its images' data is in the kernel's memory
RUNS        as what, and since when, it runs on this host
NEXT DRILL  when one is due, if they are repeated (vm drill --every)
LAST DRILL  when, and how it ended
- is what is not known, or has not been.
`

function listCommand(): Command {
  return new Command('list')
    .description('all machines: the primary, how fresh the copy is, how much of it is in memory, the drills')
    .option('--json', 'the whole document, for programs')
    .addOption(stateOption())
    .addHelpText('after', listHelp)
    .action(async (flags: StateFlag & { json?: boolean }) => {
      const document = await connectTo(flags).get<MachinesDocument>('/vm/list')
      print(flags.json === true ? JSON.stringify(document) : machineTable(document))
    })
}

const showHelp = `
With --disks nbd (the default) the disks are where 'understudy vm start' has them: exports of the promoted group, so that
what the machine writes is captured and can be given back. The others name the files of the store, for when no daemon
runs; what is written to them then, the daemon does not know.

Example: understudy vm show web --format xml >web.xml && virsh define web.xml
`

function showCommand(): Command {
  return new Command('show')
    .description('print what a machine is: for libvirt, as a command line of QEMU, or its definition')
    .argument('<name>', "the machine's name")
    .addOption(new Option('--format <format>', 'what is printed').choices(['xml', 'qemu', 'json']).default('xml'))
    .addOption(new Option('--disks <source>', 'what its disks are').choices(diskSources).default('nbd'))
    .addOption(stateOption())
    .addHelpText('after', showHelp)
    .action(async (name: string, flags: StateFlag & { format: string; disks: string }) => {
      const { format, disks } = flags
      const { text } = await connectTo(flags).post<{ text: string }>('/vm/show', { name, format, disks })
      process.stdout.write(text)
    })
}

function parseCount(text: string): number {
  if (!/^[1-9]\d{0,2}$/.test(text)) throw new InvalidArgumentError(`'${text}' is not a number of processors`)
  return Number(text)
}

async function ask(flags: StateFlag, path: string, request: object): Promise<void> {
  const { messages } = await connectTo(flags).post<MessagesReply>(path, request)
  for (const message of messages) print(message)
}
