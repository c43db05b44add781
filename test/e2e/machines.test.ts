// timeout: 120
/**
 * Machines of a standby: their definitions, what is written out of them, and one payload in several formats, each read
 * by real qemu-img and booted from by real QEMU (issue 6, points 1 and 2).
 */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { VolumeStatus } from '../../src/core/status-types.js'
import type { MachinesDocument } from '../../src/recovery/listing.js'
import { bootArguments, bootExitCode, bootSector, sectorBytes, textSector } from '../support/boot-sector.js'
import {
  becomes,
  type Daemon,
  execute,
  inSync,
  logged,
  type Output,
  type Pair,
  sameBytes,
  startPair,
  succeed,
} from '../support/daemon.js'
import { mountXfs, noXfs } from '../support/loop-filesystem.js'
import { NbdClient } from '../support/nbd-client.js'

t.jobs = 1

const formats = ['raw', 'qcow2', 'vmdk'] as const
const textAt = 81_920

const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

const refused = (t: Test, output: Output, code: number, pattern: RegExp): void => {
  t.equal(output.code, code, `exit code ${code}: ${output.stderr.trim()}`)
  t.match(output.stderr, pattern)
  t.match(output.stderr, /^[^\n]+\n$/, 'one line')
}

const add = (standby: Daemon, name: string, ...more: string[]): Promise<Output> =>
  standby.command(['vm', 'add', name, '--group', 'disk1', '--memory', '64M', '--firmware', 'bios', ...more])

/** Of the daemon, by the kernel's accounting. */
const ioOf = ({ program }: Daemon, field: string): number =>
  Number(new RegExp(`^${field}: (\\d+)$`, 'm').exec(readFileSync(`/proc/${program.pid}/io`, 'latin1'))?.[1])

async function write(pair: Pair, ...pieces: [number, Buffer][]): Promise<void> {
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  for (const [sector, bytes] of pieces) await client.write(sector * sectorBytes, bytes)
  client.destroy()
  await inSync(pair)
}

/** What `vm show` prints, without a process for each look. */
async function show(standby: Daemon, name: string, wish: { format?: string; disks?: string }): Promise<string> {
  const request = { name, format: 'xml', disks: 'nbd', ...wish }
  return (await new ControlClient(standby.state).post<{ text: string }>('/vm/show', request)).text
}

t.test(
  'a machine is added, listed, shown and removed; what is written of it is what libvirt and QEMU take',
  async t => {
    const pair = await startPair(t)
    const { standby } = pair
    const machines = join(pair.scratch.path('store'), '.groups', 'disk1', 'machines')
    const added = await add(standby, 'web', '--cpus', '2', '--qemu-args', `-nic user,model=virtio -append 'a "b" <&>'`)
    t.match(added, { code: 0, stdout: /^web: a machine of group disk1, with the disk disk1$/m })
    await succeed('virt-xml-validate', [join(machines, 'web.xml'), 'domain'])
    t.match(readFileSync(join(machines, 'web.xml'), 'utf8'), /<qemu:arg value='a &quot;b&quot; &lt;&amp;&gt;'\/>/)
    for (const disks of ['nbd', ...formats]) {
      const path = pair.scratch.path(`${disks}.xml`)
      await writeFile(path, await show(standby, 'web', { disks }))
      await succeed('virt-xml-validate', [path, 'domain'])
    }
    const script = join(machines, 'web.sh')
    t.equal(statSync(script).mode & 0o777, 0o700)
    await succeed('sh', ['-n', script])
    t.equal(await show(standby, 'web', { format: 'qemu' }), readFileSync(script, 'utf8'))
    const shown = await standby.command(['vm', 'show', 'web', '--format', 'json'])
    t.match(JSON.parse(shown.stdout), { name: 'web', cpus: 2, memoryBytes: 64 << 20 })

    const { machines: listed } = JSON.parse(
      (await standby.command(['vm', 'list', '--json'])).stdout,
    ) as MachinesDocument
    t.match(listed, [{ name: 'web', group: 'disk1', volumes: ['disk1'], primary: { id: pair.masterId } }])
    t.match((await standby.command(['vm', 'list'])).stdout, /^web +disk1 +64 MiB +disk1 +\w{8} \S+ /m)

    refused(t, await add(standby, 'web'), 1, /there is a machine 'web' already/)
    refused(t, await standby.command(['vm', 'add', 'other']), 2, /--group and --memory and --firmware are missing/)
    refused(t, await add(standby, 'other', '--firmware', 'coreboot'), 2, /Allowed choices are bios/)
    refused(t, await add(pair.master, 'web'), 3, /this host is the master of group 'disk1'/)

    t.match((await standby.command(['vm', 'remove', 'web'])).stdout, /^web: removed/)
    for (const file of ['json', 'xml', 'sh']) t.notOk(existsSync(join(machines, `web.${file}`)), `no ${file} is left`)
    for (const format of ['vmdk', 'qcow2'])
      t.notOk(existsSync(join(dirname(pair.image), `image.${format}`)), `no ${format} is left`)
    t.match((await standby.command(['vm', 'list'])).stdout, /^no machines yet/)
  },
)

t.test('one payload, several formats: nothing is copied, all readers find the same, and boot from it', async t => {
  const pair = await startPair(t)
  const { standby, image } = pair
  const text = `deep in the disk: ${Math.random()}`
  await write(pair, [0, bootSector(textAt)], [textAt, textSector(text)])
  const io = (field: string): number => ioOf(standby, field)
  const before = { inode: statSync(image).ino, hash: sha256(image), read: io('rchar'), written: io('wchar') }
  t.equal((await add(standby, 'web', '--qemu-args', '-accel tcg')).code, 0)
  t.ok(io('rchar') - before.read < 1 << 20, `read, with all of the daemon's own: ${io('rchar') - before.read} bytes`)
  t.ok(io('wchar') - before.written < 1 << 20, `written: ${io('wchar') - before.written} bytes`)
  t.equal(statSync(image).ino, before.inode, 'the same inode')

  const path = (format: string): string => join(dirname(image), `image.${format}`)
  const unreadable = async (): Promise<void> => {
    for (const format of ['qcow2', 'vmdk'])
      for (const options of [[], ['-U']]) {
        const output = await execute('qemu-img', ['info', ...options, path(format)])
        t.match(output, { code: 1, stderr: /no cut: its daemon runs, or was killed/ }, `${format} ${options.join()}`)
      }
  }
  await unreadable()
  const locked = await execute('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, image])
  t.match(locked, { code: 2, stderr: /lock/ }, 'the daemon has image.raw to itself')
  await standby.kill()
  await unreadable()
  await standby.restart()
  await inSync(pair)
  t.equal((await standby.stop()).code, 0)

  for (const format of ['qcow2', 'vmdk']) {
    const info = JSON.parse(await succeed('qemu-img', ['info', '--output=json', path(format)])) as object
    t.match(info, { format, 'virtual-size': 64 << 20 })
    const compared = await succeed('qemu-img', ['compare', '-f', 'raw', '-F', format, image, path(format)])
    t.match(compared, /Images are identical/)
  }
  await succeed('qemu-img', ['check', path('qcow2')])
  t.same({ inode: statSync(image).ino, hash: sha256(image) }, { inode: before.inode, hash: before.hash })

  await standby.restart()
  await unreadable()
  t.notMatch(standby.program.stderr, /was written to/, 'reading is no writing')
  const scripts = await Promise.all(
    formats.map(async format => {
      const script = pair.scratch.path(`boot-${format}.sh`)
      await writeFile(script, await show(standby, 'web', { format: 'qemu', disks: format }), { mode: 0o700 })
      return script
    }),
  )
  await inSync(pair)
  await standby.stop()
  for (const script of scripts) {
    const booted = await execute(script, bootArguments)
    t.equal(booted.code, bootExitCode, `${script}: ${booted.stderr}`)
    t.equal(booted.stdout, text, `a guest of ${script} reads it`)
  }
  t.equal(sha256(image), before.hash, 'no boot has changed it')
})

t.test('a copy is a fixed VHD over NBD: its footer behind the last byte, nothing written anywhere', async t => {
  const sizeBytes = (64 << 20) + 512
  const pair = await startPair(t, { sizeBytes })
  const { standby } = pair
  const text = `read as VHD: ${Math.random()}`
  const last = sizeBytes / sectorBytes - 1
  await write(pair, [0, bootSector(textAt)], [textAt, textSector(text)], [last, textSector('the last sector')])
  const [socket, vhd] = [pair.scratch.path('vhd.sock'), pair.scratch.path('disk.vhd')]
  const exported = await standby.command([
    'export',
    'disk1',
    '--format',
    'vhd',
    '--listen',
    `unix:${socket}`,
    '--detach',
  ])
  t.equal(exported.code, 0, exported.stderr)
  const uri = exported.stdout.trim()
  await write(pair, [textAt, textSector('written later')])
  const server = `server.type=unix,file.server.path=${socket},file.export=disk1`
  const booted = await execute('qemu-system-x86_64', [
    ...['-nodefaults', '-machine', 'q35,accel=tcg', '-cpu', 'max', '-m', '64M', ...bootArguments],
    ...['-drive', `if=none,id=disk,format=vpc,readonly=on,file.driver=nbd,file.${server}`],
    ...['-device', 'virtio-blk-pci,drive=disk,bootindex=1'],
  ])
  t.same([booted.code, booted.stdout], [bootExitCode, text], booted.stderr)
  await succeed('nbdcopy', [uri, vhd])
  t.equal(statSync(vhd).size, sizeBytes + sectorBytes)
  t.match(JSON.parse(await succeed('qemu-img', ['info', '-f', 'vpc', '--output=json', vhd])), {
    'virtual-size': sizeBytes,
  })
  await succeed('nbdinfo', ['--map', '--totals', uri])
  const client = await NbdClient.attach({ path: socket }, 'disk1')
  const across = await client.read(sizeBytes - 512, 1024)
  t.match(across.data.toString('latin1'), /^the last sector\0+conectix/, 'a read across the end of the disk')
  client.destroy()
  await standby.command(['export', 'disk1', '--end'])

  await write(pair, [textAt, textSector(text)])
  await standby.command(['export', 'disk1', '--listen', `unix:${socket}`, '--detach'])
  const compared = await succeed('qemu-img', ['compare', '-f', 'raw', '-F', 'vpc', uri, vhd])
  t.match(compared, /Images are identical/)
  const other = ['export', 'disk1', '--format', 'vhd', '--listen', `unix:${socket}x`]
  refused(t, await standby.command([...other, '--writable']), 2, /goes neither with --writable/)
  const file = ['export', 'disk1', '--format', 'vhd', '--to', `${vhd}.of-the-copy`]
  refused(
    t,
    await standby.command(file),
    1,
    /cannot be made without copying \(EOPNOTSUPP\): .* --listen unix:PATH', then nbdcopy$/m,
  )
  t.notOk(existsSync(`${vhd}.of-the-copy`), 'where the file system has no reflink, and nothing is left')
})

t.test(
  'where the file system has reflink a copy is made a fixed VHD, and no byte of it is copied',
  { skip: noXfs() },
  async t => {
    const sizeBytes = 64 * 2 ** 30
    const pair = await startPair(t, { sizeBytes, idle: true })
    const { standby, scratch, image } = pair
    const store = scratch.path('store')
    await mountXfs(t, store, scratch.path('xfs.img'))
    await standby.start()
    await pair.master.start()
    await inSync(pair)
    const text = `read as VHD: ${Math.random()}`
    const last = sizeBytes / sectorBytes - 1
    const noise = Array.from({ length: 16 }, (_, at): [number, Buffer] => [
      1_000_000 * (at + 1),
      Buffer.alloc(1 << 20, at + 1),
    ])
    await write(pair, [0, bootSector(textAt)], [textAt, textSector(text)], [last, textSector('last')], ...noise)
    const file = (format: string): string => join(store, `disk1.${format}`)
    const makeFile = (format: string): Promise<Output> =>
      standby.command(['export', 'disk1', '--format', format, '--to', file(format)])
    const before = { inode: statSync(image).ino, mtime: statSync(image).mtimeMs }
    const [read, written] = [ioOf(standby, 'rchar'), ioOf(standby, 'wchar')]
    const made = await makeFile('vhd')
    const copied = { read: ioOf(standby, 'rchar') - read, written: ioOf(standby, 'wchar') - written }
    t.match(made, { code: 0, stdout: `${file('vhd')}\n`, stderr: /^disk1 as it was at \d+:\d+.*\n$/ })
    t.ok(
      copied.read < 1 << 18 && copied.written < 1 << 18,
      `with all of the daemon's own: ${JSON.stringify(copied)} bytes`,
    )
    t.same({ inode: statSync(image).ino, mtime: statSync(image).mtimeMs }, before, 'the image is as it was')
    refused(t, await makeFile('vhd'), 1, /disk1.vhd is there already, and is left as it is/)
    t.equal((await makeFile('raw')).code, 0)

    await write(pair, [textAt, textSector('written later')])
    const info = JSON.parse(await succeed('qemu-img', ['info', '-f', 'vpc', '--output=json', file('vhd')])) as object
    t.match(info, { format: 'vpc', 'virtual-size': sizeBytes })
    const identical = ['compare', '-f', 'raw', '-F', 'vpc', file('raw'), file('vhd')]
    t.match(await succeed('qemu-img', identical), /Images are identical/)
    const booted = await execute('qemu-system-x86_64', [
      ...['-nodefaults', '-machine', 'q35,accel=tcg', '-cpu', 'max', '-m', '64M', ...bootArguments],
      ...['-drive', `if=virtio,format=vpc,readonly=on,file=${file('vhd')}`],
    ])
    t.same([booted.code, booted.stdout], [bootExitCode, text], booted.stderr)
    await write(pair, [textAt, textSector(text)])
    const socket = scratch.path('now.sock')
    const exported = await standby.command(['export', 'disk1', '--listen', `unix:${socket}`, '--detach'])
    const compared = ['compare', '-f', 'raw', '-F', 'vpc', exported.stdout.trim(), file('vhd')]
    t.match(await succeed('qemu-img', compared), /Images are identical/, 'it is what an export shows')
    const elsewhere = await standby.command(['export', 'disk1', '--to', scratch.path('elsewhere.img')])
    refused(t, elsewhere, 1, /elsewhere.img cannot be made without copying \(EXDEV\)/)
  },
)

t.test(
  'what a hypervisor has written to a copy, or left out of its qcow2, is found by the next daemon (G5)',
  async t => {
    const pair = await startPair(t)
    await add(pair.standby, 'web')
    await pair.standby.stop()
    const qcow2 = join(dirname(pair.image), 'image.qcow2')
    await succeed('qemu-io', ['-c', 'discard 0 8M', '-c', 'write -P 7 32M 1M', qcow2])
    await pair.standby.restart()
    await logged(t, pair.standby, /image.raw was written to while no daemon had it/)
    const why = ({ reason }: { reason: string }): boolean =>
      /'understudy invalidate disk1' there gives that up/.test(reason)
    await pair.master.until('disk1', 'it says why it is not replicated', why)
    await pair.standby.until('disk1', 'so does the standby', why)
    const written = (byte: number) => (): boolean =>
      readFileSync(pair.image)
        .subarray(32 << 20, 33 << 20)
        .every(found => found === byte)
    t.ok(written(7)(), 'nothing is thrown away unasked')
    t.equal((await pair.standby.command(['invalidate', 'disk1'])).code, 0)
    await becomes(t, 'the master has put it right', written(0))
    await inSync(pair)
    await sameBytes(t, pair.device, pair.image, 'what was written is gone')
    await write(pair, [0, bootSector(textAt)], [4096, textSector('written later')])
    await pair.standby.stop()
    t.match(await succeed('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', pair.image, qcow2]), /identical/)
    await succeed('qemu-io', ['-c', 'write -P 8 32M 1M', qcow2])
    await pair.standby.restart()
    await logged(t, pair.standby, /image.raw was written to while no daemon had it/)
    t.equal((await pair.standby.command(['promote', 'disk1', '--accept-loss'])).code, 0)
    await pair.master.until('disk1', 'it is outranked', ({ state }) => state === 'diverged')
    t.match(await pair.master.command(['resolve', 'disk1', '--keep', 'peer']), { code: 0 })
    const follows = ({ role, state, usable }: VolumeStatus): boolean =>
      role === 'standby' && state === 'replicating' && usable
    await pair.master.until('disk1', 'the old master follows', follows)
    t.ok(written(8)(), 'kept by the promotion')
    await becomes(t, 'and the old master has it', () =>
      readFileSync(pair.device)
        .subarray(32 << 20, 33 << 20)
        .every(found => found === 8),
    )
  },
)
