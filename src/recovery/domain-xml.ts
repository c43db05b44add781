/** A machine as libvirt defines it (formatdomain): what `virsh define` takes, with the disks of command-line.ts. */
import type { AcceleratorName } from './accelerator.js'
import { type Disk, diskSerial, nbdSocket, uefiFirmware } from './command-line.js'
import { type Machine, machinePath } from './definition.js'

export function domainXml(machine: Machine, disks: readonly Disk[], accelerator: AcceleratorName): string {
  const { name, uuid, memoryBytes, cpus, firmware, qemuArguments } = machine
  const type = accelerator === 'kvm' && !emulates(qemuArguments) ? 'kvm' : 'qemu'
  const own =
    qemuArguments.length === 0 ? [] : ['  <qemu:commandline>', ...qemuArguments.map(argument), '  </qemu:commandline>']
  return `${[
    `<domain type='${type}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>`,
    `  <name>${text(name)}</name>`,
    `  <uuid>${uuid}</uuid>`,
    `  <memory unit='MiB'>${memoryBytes / (1 << 20)}</memory>`,
    `  <vcpu>${cpus}</vcpu>`,
    `  <os>`,
    `    <type arch='x86_64' machine='q35'>hvm</type>`,
    ...(firmware === 'uefi' ? uefi(machine) : []),
    `  </os>`,
    `  <features>`,
    `    <acpi/>`,
    `    <apic/>`,
    `  </features>`,
    `  <cpu mode='maximum'/>`,
    `  <devices>`,
    ...disks.flatMap((disk, index) => diskXml(machine, disk, index)),
    `    <serial type='pty'/>`,
    `    <console type='pty'/>`,
    `    <graphics type='vnc' autoport='yes' listen='127.0.0.1'/>`,
    `    <video>`,
    `      <model type='vga'/>`,
    `    </video>`,
    `    <rng model='virtio'>`,
    `      <backend model='random'>/dev/urandom</backend>`,
    `    </rng>`,
    `    <memballoon model='none'/>`,
    `  </devices>`,
    ...own,
    `</domain>`,
  ].join('\n')}\n`
}

function emulates(qemuArguments: readonly string[]): boolean {
  const at = qemuArguments.indexOf('-accel')
  return at >= 0 && (qemuArguments[at + 1] ?? '').startsWith('tcg')
}

function uefi(machine: Machine): string[] {
  const variables = text(machinePath(machine, 'vars'))
  return [
    `    <loader readonly='yes' type='pflash'>${uefiFirmware.code}</loader>`,
    `    <nvram template='${uefiFirmware.variables}'>${variables}</nvram>`,
  ]
}

function diskXml(machine: Machine, disk: Disk, index: number): string[] {
  const letter = String.fromCharCode('a'.charCodeAt(0) + index)
  const target = machine.bus === 'virtio' ? `dev='vd${letter}' bus='virtio'` : `dev='sd${letter}' bus='sata'`
  const nbd = nbdSocket(disk.url)
  const opening = nbd !== undefined ? 'network' : disk.isDevice === true ? 'block' : 'file'
  return [
    `    <disk type='${opening}' device='disk'>`,
    `      <driver name='qemu' type='${disk.format}' discard='unmap'/>`,
    ...(nbd === undefined
      ? [`      <source ${opening === 'block' ? 'dev' : 'file'}='${text(disk.url)}'/>`]
      : [
          `      <source protocol='nbd' name='${text(nbd.name)}'>`,
          `        <host transport='unix' socket='${text(nbd.socket)}'/>`,
          `      </source>`,
        ]),
    `      <target ${target}/>`,
    `      <serial>${diskSerial(disk.volume)}</serial>`,
    `      <boot order='${index + 1}'/>`,
    `    </disk>`,
  ]
}

const argument = (value: string): string => `    <qemu:arg value='${text(value)}'/>`

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', "'": '&apos;', '"': '&quot;' }

const text = (value: string): string => value.replaceAll(/[&<>'"]/g, character => entities[character] ?? '')
