/**
 * All machines of a store, and their files.
 *
 * Guarantees: a name is one machine's; a definition is on disk when add() returns; what is written out for libvirt and for
 * a shell, and the descriptions of the images, are there before it.
 * Does not: start anything.
 */
import { randomUUID } from 'node:crypto'
import { chmodSync, copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { totalmem } from 'node:os'

import { makeDirectory, removeDurably } from '../core/atomic-file.js'
import { NativeError, OperationError, UsageError } from '../core/errors.js'
import { formatSize, nbdUri } from '../core/units.js'
import { describeVolume, forgetDescriptions, formatPath, formatProblem } from '../standby/formats.js'
import type { CopiedGroup } from '../standby/standby.js'
import { nameProblem } from '../standby/store.js'
import { Accelerator, type AcceleratorName } from './accelerator.js'
import { type Disk, machineSocket, qemuArguments, qemuProgram, uefiFirmware } from './command-line.js'
import {
  type DiskBus,
  type Firmware,
  type Machine,
  machineDirectory,
  machineNames,
  machinePath,
  readMachine,
  writeMachine,
} from './definition.js'
import { domainXml } from './domain-xml.js'
import { quoteWord } from './shell-words.js'

export interface MachineWish {
  name: string
  group: string
  memoryBytes: number
  cpus: number
  firmware: Firmware
  bus: DiskBus
  qemuArguments: string[]
}

export interface Found {
  machine: Machine
  copy: CopiedGroup
}

/** What a machine's disks are read from: the exports of the promoted group, or the files of the store. */
export const diskSources = ['nbd', 'raw', 'qcow2', 'vmdk'] as const
export type DiskSource = (typeof diskSources)[number]

const memoryBytesMin = 16 << 20
const mebibyte = 1 << 20
const cpusMax = 255
/** What the buses of q35 take without bridges. */
const disksMax: Record<DiskBus, number> = { virtio: 20, sata: 6 }
const socketPathBytesMax = 107

export class Machines {
  constructor(
    private readonly copies: () => readonly CopiedGroup[],
    readonly accelerator = new Accelerator(),
  ) {}

  /** By name. One that cannot be read keeps no other from being listed. */
  list(failed: (error: unknown) => void): Found[] {
    const found = this.copies().flatMap(copy =>
      machineNames(copy.directory).flatMap(name => {
        try {
          const machine = readMachine(copy.directory, name)
          return machine === undefined ? [] : [{ machine, copy }]
        } catch (error) {
          failed(error)
          return []
        }
      }),
    )
    return found.sort((a, b) => (a.machine.name < b.machine.name ? -1 : 1))
  }

  find(action: string, name: string): Found {
    for (const copy of this.copies()) {
      if (!machineNames(copy.directory).includes(name)) continue
      const machine = readMachine(copy.directory, name)
      if (machine !== undefined) return { machine, copy }
    }
    const names = this.copies().flatMap(({ directory }) => machineNames(directory))
    throw new OperationError(
      'NO_MACHINE',
      `${action}: there is no machine '${name}' here; ${names.length === 0 ? "'understudy vm add' makes one" : `there are: ${names.sort().join(', ')}`}`,
    )
  }

  add(wish: MachineWish, added: string): Machine {
    const copy = this.groupOf(wish)
    refuseWish(wish, copy)
    const { name, group, memoryBytes, cpus, firmware, bus, qemuArguments } = wish
    const directory = machineDirectory(copy.directory)
    const machine: Machine = {
      ...{ name, group, uuid: randomUUID(), memoryBytes, cpus, firmware, bus, qemuArguments, added },
      directory,
    }
    try {
      makeDirectory(directory)
      if (firmware === 'uefi') {
        copyFileSync(uefiFirmware.variables, machinePath(machine, 'vars'))
        chmodSync(machinePath(machine, 'vars'), 0o600)
      }
      for (const volume of copy.volumes) describeVolume(volume.folder, volume)
      this.writeOut({ machine, copy })
      writeMachine(machine)
    } catch (error) {
      this.discard({ machine, copy })
      throw error
    }
    return machine
  }

  remove(name: string): Found {
    const found = this.find('vm remove', name)
    removeDurably(machinePath(found.machine, 'json'))
    this.discard(found)
    return found
  }

  /** At start, with the images in the daemon's hands: the store may have another path by now, or a file may be gone. */
  renew(failed: (error: unknown) => void): void {
    const found = this.list(failed)
    each(found, failed, ({ copy }) => copy.volumes.forEach(volume => describeVolume(volume.folder, volume)))
    each(found, failed, one => this.writeOut(one))
    if (found.length > 0) void this.writeOutAnew(failed)
  }

  /** When the accelerator is another one than it seemed. */
  private async writeOutAnew(failed: (error: unknown) => void): Promise<void> {
    const { name } = this.accelerator
    if ((await this.accelerator.look()) !== name) each(this.list(failed), failed, one => this.writeOut(one))
  }

  /** With the accelerator that is known by now. */
  private writeOut(found: Found): void {
    const { machine } = found
    const { name } = this.accelerator
    write(machinePath(machine, 'xml'), xmlOf(found, 'nbd', name), 0o600)
    write(machinePath(machine, 'sh'), scriptOf(found, 'nbd', name), 0o700)
  }

  /** All but the definition; the descriptions of the images with the last machine. */
  private discard({ machine, copy }: Found): void {
    for (const file of ['xml', 'sh', 'vars'] as const) rmSync(machinePath(machine, file), { force: true })
    if (machineNames(copy.directory).length === 0) for (const { folder } of copy.volumes) forgetDescriptions(folder)
  }

  private groupOf({ name, group }: MachineWish): CopiedGroup {
    const copies = this.copies()
    const holder = copies.find(({ directory }) => machineNames(directory).includes(name))
    if (holder !== undefined)
      throw new OperationError(
        'NAME_TAKEN',
        `vm add: there is a machine '${name}' already, of group '${holder.group}'; 'understudy vm remove ${name}' removes it`,
      )
    const copy = copies.find(one => one.group === group)
    if (copy !== undefined) return copy
    const names = copies.map(one => one.group)
    throw new OperationError(
      'NO_GROUP',
      `vm add: this host has no copy of a group '${group}'; ${names.length === 0 ? 'it has none yet' : `it has: ${names.join(', ')}`}`,
    )
  }
}

function each(all: readonly Found[], failed: (error: unknown) => void, task: (one: Found) => void): void {
  for (const one of all)
    try {
      task(one)
    } catch (error) {
      failed(error)
    }
}

function refuseWish(wish: MachineWish, { volumes, directory }: CopiedGroup): void {
  const { name, memoryBytes, cpus, firmware, bus } = wish
  const refuse = (why: string): never => {
    throw new UsageError(`vm add: ${why}`)
  }
  const problem = nameProblem(name)
  if (problem !== undefined) refuse(problem)
  if (memoryBytes % mebibyte !== 0) refuse(`--memory: ${memoryBytes} bytes are not whole MiB; write it like 512M or 2G`)
  if (memoryBytes < memoryBytesMin)
    refuse(`--memory: ${formatSize(memoryBytes)} is too little; at least ${formatSize(memoryBytesMin)}`)
  if (memoryBytes > totalmem())
    refuse(`--memory: ${formatSize(memoryBytes)} is more than this host has (${formatSize(totalmem())})`)
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > cpusMax) refuse(`--cpus: a number from 1 to ${cpusMax}`)
  // eslint-disable-next-line no-control-regex
  if (wish.qemuArguments.some(word => /[\x00-\x1f\x7f]/.test(word)))
    refuse('--qemu-args: it contains a control character')
  if (volumes.length > disksMax[bus])
    refuse(`the group has ${volumes.length} volumes, and --bus ${bus} takes at most ${disksMax[bus]} disks`)
  if (Buffer.byteLength(machineSocket(directory)) > socketPathBytesMax)
    refuse(
      `the socket of its disks, ${machineSocket(directory)}, would be longer than ${socketPathBytesMax} bytes; a shorter --store is needed`,
    )
  for (const volume of volumes) {
    const why = formatProblem(volume)
    if (why !== undefined) refuse(why)
  }
  if (firmware === 'uefi') refuseWithoutFirmware()
}

function refuseWithoutFirmware(): void {
  for (const path of [uefiFirmware.code, uefiFirmware.variables]) {
    if (existsSync(path)) continue
    throw new OperationError(
      'NO_FIRMWARE',
      `vm add: --firmware uefi needs ${path}; install the package ${uefiFirmware.package} (apt-get install ${uefiFirmware.package})`,
    )
  }
}

/** `source`: nbd is where 'understudy vm start' has the disks of the promoted group. */
export function disksOf({ copy }: Found, source: DiskSource): Disk[] {
  const socket = machineSocket(copy.directory)
  return copy.volumes.map(({ name, folder, image, device }): Disk => {
    const disk = { volume: name, snapshot: false }
    switch (source) {
      case 'nbd':
        return { ...disk, format: 'raw', url: nbdUri({ kind: 'unix', path: socket }, name) }
      case 'raw':
        return { ...disk, format: 'raw', url: image, isDevice: device !== undefined }
      case 'qcow2':
      case 'vmdk':
        return { ...disk, format: source, url: formatPath(folder, source) }
    }
  })
}

export const xmlOf = (found: Found, source: DiskSource, accelerator: AcceleratorName): string =>
  domainXml(found.machine, disksOf(found, source), accelerator)

export function scriptOf(found: Found, source: DiskSource, accelerator: AcceleratorName): string {
  const { machine } = found
  const words = qemuArguments(machine, disksOf(found, source), accelerator)
  const options: string[] = []
  // An option and its value to a line.
  for (const word of words) {
    const last = options.length - 1
    if (word.startsWith('-') || last < 0) options.push(quoteWord(word))
    else options[last] += ` ${quoteWord(word)}`
  }
  return `#!/bin/sh
# Machine ${machine.name.replaceAll('\n', ' ')} of group ${machine.group}; written by understudy, and anew at each start of its daemon.
# Its disks are there once the group is promoted ('understudy vm start' does all of it). More options may be given.
exec ${[qemuProgram, ...options, '"$@"'].join(' \\\n  ')}
`
}

function write(path: string, text: string, mode: number): void {
  try {
    if (existsSync(path) && readFileSync(path, 'utf8') === text) return
    writeFileSync(path, text, { mode })
    chmodSync(path, mode)
  } catch (error) {
    throw new NativeError(`write ${path}`, error)
  }
}
