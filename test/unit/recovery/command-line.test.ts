import { test } from 'tap'

import { diskSerial, nbdSocket, qemuArguments } from '../../../src/recovery/command-line.js'
import type { Machine } from '../../../src/recovery/definition.js'

const machine: Machine = {
  name: 'web',
  group: 'web',
  uuid: '6f0b2c1e-6f5a-4d6e-9a53-3f1e1c8b7a10',
  memoryBytes: 2 ** 31,
  cpus: 2,
  firmware: 'bios',
  bus: 'virtio',
  qemuArguments: ['-nic', 'user'],
  added: '2026-11-29T00:00:00.000Z',
  directory: '/store/.groups/web/machines',
}
const nbd = (volume: string) => ({
  volume,
  url: `nbd+unix:///${volume}?socket=/run/a,b.sock`,
  format: 'raw' as const,
  snapshot: false,
})

test('the command line of QEMU: every disk in order, the first one boots, what was asked for comes last', async t => {
  const line = qemuArguments(machine, [nbd('root'), nbd('data')], 'kvm', ['-serial', 'stdio'])
  t.match(line.join(' '), /-m 2048M/)
  t.match(line.join(' '), /-smp 2/)
  const drives = line.filter(word => word.startsWith('if=none'))
  t.equal(drives.length, 2)
  t.match(drives[0], /file.export=root,/)
  t.match(drives[1], /file.export=data,/)
  t.match(drives[0], /file.server.path=\/run\/a,,b.sock,/, 'a comma is written twice')
  t.match(
    line.filter(word => word.startsWith('virtio-blk-pci')),
    [/drive=disk0,bootindex=1,serial=root/, /drive=disk1,bootindex=2,serial=data/],
  )
  t.same(line.slice(-4), ['-serial', 'stdio', '-nic', 'user'])
  t.notMatch(line.join(' '), /pflash/)
})

test('a machine with uefi has its own variables, which are thrown away with its disks', async t => {
  const uefi: Machine = { ...machine, firmware: 'uefi', bus: 'sata' }
  const kept = qemuArguments(uefi, [nbd('root')], 'kvm').filter(word => word.includes('pflash'))
  t.match(kept, [/readonly=on,file=.*OVMF_CODE/, /file=\/store\/.groups\/web\/machines\/web.vars$/])
  const thrown = qemuArguments(uefi, [{ ...nbd('root'), snapshot: true }], 'kvm')
  t.match(thrown.find(word => word.includes('web.vars')) ?? '', /snapshot=on/)
  t.match(thrown.find(word => word.startsWith('if=none')) ?? '', /snapshot=on/)
  t.ok(thrown.some(word => word.startsWith('ide-hd,bus=ide.0,drive=disk0')))
})

test('a disk may be a file in any of the formats', async t => {
  const image = { volume: 'root', url: '/store/root/image.qcow2', format: 'qcow2', snapshot: false } as const
  const line = qemuArguments(machine, [image], 'kvm')
  t.match(line.find(word => word.startsWith('if=none')) ?? '', /format=qcow2,file=\/store\/root\/image.qcow2,/)
  t.throws(() => nbdSocket('nbd://host/x'), /neither an absolute path nor/)
  t.same(nbdSocket('nbd+unix:///a%20b?socket=/x%20y'), { name: 'a b', socket: '/x y' })
  t.equal(diskSerial('a name, that is longer than twenty'), 'a-name--that-is-long')
})
