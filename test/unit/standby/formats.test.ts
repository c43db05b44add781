import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { test } from 'tap'

import { describeVolume, formatPath, formatProblem, markDescriptions } from '../../../src/standby/formats.js'
import { scratch } from '../../support/daemon.js'

const GiB = 1n << 30n
const volume = { name: 'disk1', uuid: '6f0b2c1e-6f5a-4d6e-9a53-3f1e1c8b7a10', sizeBytes: GiB }

const qemuImg = (...args: string[]): string => execFileSync('qemu-img', args, { encoding: 'utf8' })

test('the descriptions take 8 bytes for every 2 MiB of the disk, and are right, up to 1 TiB', async t => {
  for (const gibibytes of [1n, 64n, 1024n]) {
    const folder = join(scratch(t).folder, 'disk1')
    mkdirSync(folder)
    const disk = { ...volume, sizeBytes: gibibytes * GiB }
    const image = join(folder, 'image.raw')
    writeFileSync(image, 'the first bytes')
    truncateSync(image, Number(disk.sizeBytes))
    describeVolume(folder, disk)
    markDescriptions(folder, disk, true)
    const blocks = (path: string): number => statSync(path).blocks * 512
    const most = Number(gibibytes) * 4096 + (64 << 10)
    t.ok(blocks(formatPath(folder, 'qcow2')) <= most, `${gibibytes} GiB: ${blocks(formatPath(folder, 'qcow2'))} bytes`)
    for (const format of ['qcow2', 'vmdk'] as const)
      t.match(qemuImg('compare', '-f', 'raw', '-F', format, image, formatPath(folder, format)), /identical/)
    t.match(qemuImg('check', formatPath(folder, 'qcow2')), /No errors/)
  }
})

test('a description of a disk of another size, or at another place, is made anew when it is marked', async t => {
  const store = scratch(t).folder
  const [folder, moved] = [join(store, 'disk1'), join(store, 'disk2')]
  mkdirSync(folder)
  writeFileSync(join(folder, 'image.raw'), '')
  truncateSync(join(folder, 'image.raw'), Number(2n * GiB))
  describeVolume(folder, volume)
  markDescriptions(folder, { ...volume, sizeBytes: 2n * GiB }, true)
  for (const format of ['qcow2', 'vmdk'] as const)
    t.match(JSON.parse(qemuImg('info', '--output=json', formatPath(folder, format))), {
      'virtual-size': Number(2n * GiB),
    })
  execFileSync('mv', [folder, moved])
  markDescriptions(moved, { ...volume, sizeBytes: 2n * GiB }, true)
  t.match(
    qemuImg('compare', '-f', 'qcow2', '-F', 'vmdk', formatPath(moved, 'qcow2'), formatPath(moved, 'vmdk')),
    /identical/,
  )
})

test('one that cannot be marked is removed, so that it does not lie; a volume without descriptions gets none', async t => {
  const folder = scratch(t).folder
  markDescriptions(folder, volume, true)
  t.notOk(existsSync(formatPath(folder, 'vmdk')))
  describeVolume(folder, volume)
  t.match(readFileSync(formatPath(folder, 'vmdk'), 'utf8'), /createType="no cut/)
  t.throws(() => markDescriptions(folder, { ...volume, sizeBytes: 1000n }, true), /they were removed/)
  for (const format of ['qcow2', 'vmdk'] as const) t.notOk(existsSync(formatPath(folder, format)))
  t.match(formatProblem({ ...volume, device: '/dev/"x"' }), /cannot be written in a VMDK/)
})

const noRoot = process.getuid?.() !== 0 ? 'block devices: needs root' : false
const noLoop = existsSync('/dev/loop-control') ? false : 'block devices: needs loop devices'
test('of a copy on a block device the descriptions name the device', { skip: noRoot || noLoop }, async t => {
  const folder = scratch(t).folder
  const backing = join(folder, 'backing')
  writeFileSync(backing, 'the first bytes')
  truncateSync(backing, 16 << 20)
  const options = { encoding: 'utf8', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } } as const
  const device = execFileSync('losetup', ['--find', '--show', backing], options).trim()
  t.teardown(() => execFileSync('losetup', ['--detach', device], options))
  const disk = { ...volume, sizeBytes: 16n << 20n, device }
  const same = (format: string, path: string): string => qemuImg('compare', '-f', 'raw', '-F', format, device, path)
  describeVolume(folder, disk)
  for (const format of ['qcow2', 'vmdk'] as const)
    t.throws(() => execFileSync('qemu-img', ['info', formatPath(folder, format)], { stdio: 'pipe' }))
  markDescriptions(folder, disk, true)
  for (const format of ['qcow2', 'vmdk'] as const) {
    const path = formatPath(folder, format)
    t.match(same(format, path), /identical/)
    execFileSync('qemu-io', ['-f', format, '-c', `write -q -P ${format.length} 1M 64k`, '-c', 'flush', path])
    t.match(same(format, path), /identical/)
    t.equal(readFileSync(backing)[1 << 20], format.length, 'a write goes to the device')
  }
})
