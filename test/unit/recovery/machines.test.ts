import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { test } from 'tap'

import { uefiFirmware } from '../../../src/recovery/command-line.js'
import { Machines, type MachineWish, scriptOf } from '../../../src/recovery/machines.js'
import { quoteWord, splitWords } from '../../../src/recovery/shell-words.js'
import type { CopiedGroup } from '../../../src/standby/standby.js'
import { scratch } from '../../support/daemon.js'

const wish: MachineWish = {
  name: 'web',
  group: 'web',
  memoryBytes: 64 << 20,
  cpus: 1,
  firmware: 'bios',
  bus: 'virtio',
  qemuArguments: [],
}

function copyOf(store: string, group: string, volumes: string[], sizeBytes = 1n << 30n): CopiedGroup {
  const directory = join(store, '.groups', group)
  mkdirSync(directory, { recursive: true })
  return {
    ...{ group, masterId: 'm', directory },
    volumes: volumes.map(name => {
      const folder = join(store, name)
      return { name, uuid: '6f0b2c1e-6f5a-4d6e-9a53-3f1e1c8b7a10', sizeBytes, folder, image: join(folder, 'image.raw') }
    }),
  }
}

test('what cannot be meant is refused by name, and nothing is left of it', async t => {
  const store = scratch(t).folder
  const copies = [copyOf(store, 'web', ['root', 'data']), copyOf(store, 'odd', ['odd'], 1000n)]
  const machines = new Machines(() => copies)
  const refuses = (change: Partial<MachineWish>, exitCode: number, message: RegExp): void =>
    void t.throws(() => machines.add({ ...wish, ...change }, 'now'), { exitCode, message })
  refuses({ group: 'mail' }, 1, /no copy of a group 'mail'; it has: web, odd/)
  refuses({ name: 'a/b' }, 2, /slash/)
  refuses({ memoryBytes: 1000 }, 2, /not whole MiB/)
  refuses({ memoryBytes: 1 << 20 }, 2, /too little; at least 16 MiB/)
  refuses({ memoryBytes: 2 ** 52 }, 2, /more than this host has/)
  refuses({ cpus: 0 }, 2, /from 1 to 255/)
  refuses({ qemuArguments: ['a\nb'] }, 2, /control character/)
  refuses({ group: 'odd' }, 2, /1000 bytes are no multiple of 512/)
  if (!existsSync(uefiFirmware.code)) refuses({ firmware: 'uefi' }, 1, /install the package ovmf/)
  t.notOk(existsSync(join(store, '.groups/web/machines')))

  copies.push(copyOf(store, 'many', ['a', 'b', 'c', 'd', 'e', 'f', 'g']))
  refuses({ group: 'many', bus: 'sata' }, 2, /7 volumes, and --bus sata takes at most 6/)
  const long = copyOf(join(store, 'x'.repeat(100)), 'web2', ['disk'])
  copies.push(long)
  refuses({ group: 'web2' }, 2, /would be longer than 107 bytes/)
})

test("a name is one machine's in the whole store; the descriptions go with the last machine of a group", async t => {
  const store = scratch(t).folder
  const machines = new Machines(() => [copyOf(store, 'web', ['root']), copyOf(store, 'mail', ['mail'])])
  machines.add(wish, 'now')
  t.throws(() => machines.add({ ...wish, group: 'mail' }, 'now'), { code: 'NAME_TAKEN', message: /of group 'web'/ })
  machines.add({ ...wish, name: 'second' }, 'now')
  t.same(
    machines.list(t.error).map(({ machine, copy }) => [machine.name, copy.group]),
    [
      ['second', 'web'],
      ['web', 'web'],
    ],
  )
  machines.remove('web')
  t.ok(existsSync(join(store, 'root/image.vmdk')))
  machines.remove('second')
  t.notOk(existsSync(join(store, 'root/image.vmdk')))
  t.throws(() => machines.find('vm show', 'web'), { code: 'NO_MACHINE', message: /'understudy vm add' makes one/ })
})

test('what is written out is renewed when it does not fit any more; a damaged definition keeps no other from it', async t => {
  const store = scratch(t).folder
  const copies = [copyOf(store, 'web', ['root'])]
  const machines = new Machines(() => copies)
  const { directory } = machines.add(wish, 'now')
  machines.add({ ...wish, name: 'bad' }, 'now')
  const script = join(directory, 'web.sh')
  const before = readFileSync(script, 'utf8')
  t.equal(before, scriptOf(machines.find('show', 'web'), 'nbd', machines.accelerator.name))
  writeFileSync(script, 'of before')
  rmSync(join(store, 'root/image.vmdk'))
  writeFileSync(join(directory, 'bad.json'), '{}')
  const failures: unknown[] = []
  machines.renew(error => failures.push(error))
  t.equal(readFileSync(script, 'utf8'), before)
  t.ok(existsSync(join(store, 'root/image.vmdk')))
  t.match(failures, [{ code: 'DAMAGED_FILE' }])
  t.same(
    machines.list(error => failures.push(error)).map(({ machine }) => machine.name),
    ['web'],
    'it keeps no other from being listed',
  )
  t.equal(failures.length, 2)
  await machines.accelerator.look() // renew() waits for it, and writes
})

test('--qemu-args is split as a shell does', async t => {
  t.same(splitWords(`-nic user  -append 'a "b"' "c \\"d\\"" e\\ f ''`), [
    '-nic',
    'user',
    '-append',
    'a "b"',
    'c "d"',
    'e f',
    '',
  ])
  t.throws(() => splitWords('"open'), /is not closed/)
  for (const word of ['plain', "it's", 'a b', '']) t.same(splitWords(quoteWord(word)), [word])
})
