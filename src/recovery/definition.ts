/**
 * A machine: what `understudy vm` protects. One group is all its disks, so that they have one position; the rest says
 * what a hypervisor needs to run it.
 *
 *   STORE/.groups/GROUP/machines/NAME.json       the definition
 *   STORE/.groups/GROUP/machines/NAME.xml, .sh   the same for libvirt and for a shell, written anew when it changes
 *   STORE/.groups/GROUP/machines/NAME.vars       uefi: its variables (the order of booting), the machine's own
 *
 * Does not: say whether it runs.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'

import { readJson, writeJson } from '../core/atomic-file.js'
import { errnoOf, NativeError, OperationError } from '../core/errors.js'

export const firmwares = ['bios', 'uefi'] as const
export type Firmware = (typeof firmwares)[number]

/** How the guest sees its disks: virtio needs a driver (Linux has it), sata none. */
export const diskBuses = ['virtio', 'sata'] as const
export type DiskBus = (typeof diskBuses)[number]

export interface Machine {
  /** Unique in a store. */
  name: string
  group: string
  /** As the guest and libvirt see it; for good. */
  uuid: string
  /** Whole MiB. */
  memoryBytes: number
  cpus: number
  firmware: Firmware
  bus: DiskBus
  /** Put behind everything else. */
  qemuArguments: string[]
  /** ISO 8601 */
  added: string
  /** Where it was read from, and its other files are: not part of the file. */
  directory: string
}

/** `groupDirectory`: Store.groupDirectory(). */
export const machineDirectory = (groupDirectory: string): string => join(groupDirectory, 'machines')

export type MachineFile = 'json' | 'xml' | 'sh' | 'vars'

export const machinePath = ({ directory, name }: Pick<Machine, 'directory' | 'name'>, file: MachineFile): string =>
  join(directory, `${name}.${file}`)

export function writeMachine(machine: Machine): void {
  const { directory: _where, ...stored } = machine
  writeJson(machinePath(machine, 'json'), { version: 1, ...stored })
}

/** Undefined when there is none. */
export function readMachine(groupDirectory: string, name: string): Machine | undefined {
  const directory = machineDirectory(groupDirectory)
  const path = machinePath({ directory, name }, 'json')
  const stored = readJson(path)
  if (stored === undefined) return undefined
  const machine = decode(stored, directory)
  if (machine?.name === name) return machine
  throw new OperationError(
    'DAMAGED_FILE',
    `read ${path}: a field is missing, or it is another machine's; restore the file, or remove it and add the machine again`,
  )
}

/** Sorted by name. */
export function machineNames(groupDirectory: string): string[] {
  const directory = machineDirectory(groupDirectory)
  try {
    return readdirSync(directory)
      .flatMap(file => (file.endsWith('.json') ? [file.slice(0, -'.json'.length)] : []))
      .sort()
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return []
    throw new NativeError(`read ${directory}`, error)
  }
}

function decode(stored: Record<string, unknown>, directory: string): Machine | undefined {
  const { name, group, uuid, added, memoryBytes, cpus, qemuArguments } = stored
  const firmware = firmwares.find(known => known === stored['firmware'])
  const bus = diskBuses.find(known => known === stored['bus'])
  if (!isText(name) || !isText(group) || !isText(uuid) || !isText(added)) return undefined
  if (!isCount(memoryBytes) || !isCount(cpus) || firmware === undefined || bus === undefined) return undefined
  if (!Array.isArray(qemuArguments) || !qemuArguments.every(isText)) return undefined
  return { name, group, uuid, memoryBytes, cpus, firmware, bus, qemuArguments, added, directory }
}

const isText = (value: unknown): value is string => typeof value === 'string'
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) > 0
