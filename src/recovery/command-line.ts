/**
 * The command line of QEMU that runs a machine. Whoever starts it chooses what its disks are: the exports of a promoted
 * group, views, or the files of the store; and adds what is his own (monitor, console, display).
 */
import { join } from 'node:path'

import { UsageError } from '../core/errors.js'
import type { AcceleratorName } from './accelerator.js'
import { type Machine, machinePath } from './definition.js'

export const qemuProgram = 'qemu-system-x86_64'

/** Debian's ovmf: what the firmware is, and what variables begin as. */
export const uefiFirmware = {
  package: 'ovmf',
  code: '/usr/share/OVMF/OVMF_CODE_4M.fd',
  variables: '/usr/share/OVMF/OVMF_VARS_4M.fd',
} as const

export type DiskFormat = 'raw' | 'qcow2' | 'vmdk'

export interface Disk {
  volume: string
  /** nbd+unix:///EXPORT?socket=PATH, or an absolute path. */
  url: string
  format: DiskFormat
  /** What the guest writes goes to a temporary file of QEMU's and is gone with it. */
  snapshot: boolean
  /** The path is a block device's. */
  isDevice?: boolean
  /** Of an export: a daemon that is started anew within this time finds its clients waiting. */
  reconnectSeconds?: number
}

const reconnectSecondsDefault = 300

/** Where the disks of a promoted group are for its machines. */
export const machineSocket = (groupDirectory: string): string => join(groupDirectory, 'nbd.sock')

/**
 * The first disk is what it boots from. `extra` comes before the machine's own arguments, of which -accel and -cpu take
 * the place of `accelerator`.
 */
export function qemuArguments(
  machine: Machine,
  disks: readonly Disk[],
  accelerator: AcceleratorName,
  extra: readonly string[] = [],
): string[] {
  const accelerated = machine.qemuArguments.includes('-accel') // as its owner knows better
  return [
    ...['-name', `guest=${escaped(machine.name)}`],
    ...['-uuid', machine.uuid],
    // Nothing that the machine has not: above all no network, where its original may still be.
    '-nodefaults',
    ...['-machine', accelerated ? 'q35' : `q35,accel=${accelerator === 'kvm' ? 'kvm:tcg' : 'tcg'}`],
    ...(accelerated || machine.qemuArguments.includes('-cpu') ? [] : ['-cpu', 'max']),
    ...['-smp', String(machine.cpus)],
    ...['-m', `${machine.memoryBytes / (1 << 20)}M`],
    ...['-vga', 'std'],
    ...['-device', 'virtio-rng-pci'],
    ...(machine.firmware === 'uefi'
      ? uefiArguments(
          machine,
          disks.some(({ snapshot }) => snapshot),
        )
      : []),
    ...disks.flatMap((disk, index) => diskArguments(machine, disk, index)),
    ...extra,
    ...machine.qemuArguments,
  ]
}

/** Its variables are thrown away with its disks; then several may run at once. */
function uefiArguments(machine: Machine, throwAway: boolean): string[] {
  const variables = `if=pflash,unit=1,format=raw,file=${escaped(machinePath(machine, 'vars'))}`
  return [
    ...['-drive', `if=pflash,unit=0,format=raw,readonly=on,file=${uefiFirmware.code}`],
    ...['-drive', throwAway ? `${variables},snapshot=on,file.locking=off` : variables],
  ]
}

function diskArguments(machine: Machine, disk: Disk, index: number): string[] {
  const id = `disk${index}`
  const drive = [
    'if=none',
    `id=${id}`,
    `format=${disk.format}`,
    ...source(disk),
    'discard=unmap',
    ...(disk.snapshot ? ['snapshot=on'] : []),
  ]
  const device = [
    ...(machine.bus === 'virtio' ? ['virtio-blk-pci'] : ['ide-hd', `bus=ide.${index}`]),
    `drive=${id}`,
    `bootindex=${index + 1}`,
    `serial=${diskSerial(disk.volume)}`,
  ]
  return ['-drive', drive.join(','), '-device', device.join(',')]
}

function source({ url, reconnectSeconds = reconnectSecondsDefault }: Disk): string[] {
  const nbd = nbdSocket(url)
  if (nbd === undefined) return [`file=${escaped(url)}`]
  return [
    'file.driver=nbd',
    'file.server.type=unix',
    `file.server.path=${escaped(nbd.socket)}`,
    `file.export=${escaped(nbd.name)}`,
    `file.reconnect-delay=${reconnectSeconds}`,
  ]
}

/** Undefined: it is a path. */
export function nbdSocket(url: string): { name: string; socket: string } | undefined {
  if (url.startsWith('/')) return undefined
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  const socket = parsed?.searchParams.get('socket') ?? ''
  if (parsed?.protocol !== 'nbd+unix:' || socket === '')
    throw new UsageError(`'${url}' is neither an absolute path nor nbd+unix:///EXPORT?socket=PATH`)
  return { name: decodeURIComponent(parsed.pathname.slice(1)), socket }
}

/** What the guest finds a disk by: 20 bytes are all that virtio has. */
export const diskSerial = (volume: string): string => volume.replaceAll(/[^\w.+-]/g, '-').slice(0, 20)

/** In an option of QEMU a comma is written twice. */
const escaped = (text: string): string => text.replaceAll(',', ',,')
