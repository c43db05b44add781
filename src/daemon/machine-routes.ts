/** What the requests about machines do: add, remove, list, show. */
import { describe, OperationError, SafetyRefusal } from '../core/errors.js'
import { diskBuses, firmwares } from '../recovery/definition.js'
import { machineStatus, type MachinesDocument } from '../recovery/listing.js'
import { diskSources, scriptOf, xmlOf } from '../recovery/machines.js'
import type { Fields, MessagesReply } from './control-protocol.js'
import type { Answer, Routes } from './control-server.js'
import type { Daemon } from './daemon.js'

const machineFormats = ['xml', 'qemu', 'json'] as const

export function machineRoutes(daemon: Daemon): Routes {
  return {
    'POST /vm/add': fields => add(daemon, fields),
    'POST /vm/remove': fields => {
      const name = fields.string('name')
      daemon.recovery.refuseWhileOnStage('vm remove', name)
      const { machine } = daemon.machines.remove(name)
      return messages(`${name}: removed; the copy of group ${machine.group} stays as it is`)
    },
    'POST /vm/show': fields => show(daemon, fields),
    'GET /vm/list': () => ({ document: list(daemon) }),
  }
}

const messages = (...lines: string[]): Answer => ({ document: { messages: lines } satisfies MessagesReply })

async function add(daemon: Daemon, fields: Fields): Promise<Answer> {
  const wish = {
    name: fields.string('name'),
    group: fields.string('group'),
    memoryBytes: fields.count('memoryBytes'),
    cpus: fields.count('cpus'),
    firmware: fields.oneOf('firmware', firmwares),
    bus: fields.oneOf('bus', diskBuses),
    qemuArguments: fields.strings('qemuArguments'),
  }
  refuseOwnMaster(daemon, wish.group)
  await daemon.machines.accelerator.look()
  const { directory } = daemon.machines.add(wish, new Date().toISOString())
  const { copy } = daemon.machines.find('vm add', wish.name)
  const disks = copy.volumes.map(({ name }) => name).join(', ')
  return messages(
    `${wish.name}: a machine of group ${wish.group}, with ${copy.volumes.length === 1 ? 'the disk' : 'the disks'} ${disks}`,
    `its files: ${directory}/${wish.name}.{json,xml,sh}`,
  )
}

/** A machine is for whoever has the copy. */
function refuseOwnMaster(daemon: Daemon, group: string): void {
  if (daemon.standby?.has(group) === true) return
  if (daemon.status().volumes.some(volume => volume.group === group))
    throw new SafetyRefusal(
      'IS_MASTER',
      `vm add: this host is the master of group '${group}'; ask the daemon of its standby`,
    )
  if (daemon.standby === undefined)
    throw new OperationError('NO_GROUP', `vm add: this host keeps no copies; ask the daemon of a standby`)
}

async function show(daemon: Daemon, fields: Fields): Promise<Answer> {
  const found = daemon.machines.find('vm show', fields.string('name'))
  const source = fields.oneOf('disks', diskSources)
  const accelerator = await daemon.machines.accelerator.look()
  switch (fields.oneOf('format', machineFormats)) {
    case 'xml':
      return { document: { text: xmlOf(found, source, accelerator) } }
    case 'qemu':
      return { document: { text: scriptOf(found, source, accelerator) } }
    case 'json':
      return { document: { text: `${JSON.stringify(found.machine, null, 2)}\n` } }
  }
}

function list(daemon: Daemon): MachinesDocument {
  const { volumes } = daemon.status()
  const found = daemon.machines.list(error => daemon.options.log.warn(describe(error)))
  return { machines: found.map(one => machineStatus(one, volumes, daemon.recovery.state(one.machine.name))) }
}
