import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { test } from 'tap'

import {
  type Machine,
  machineDirectory,
  machineNames,
  readMachine,
  writeMachine,
} from '../../../src/recovery/definition.js'

test('a definition is read back as it was written, and a damaged one is refused by name', async t => {
  const group = t.testdir()
  t.same(machineNames(group), [])
  t.equal(readMachine(group, 'web'), undefined)
  const machine: Machine = {
    name: 'web',
    group: 'web',
    uuid: '6f0b2c1e-6f5a-4d6e-9a53-3f1e1c8b7a10',
    memoryBytes: 2 ** 31,
    cpus: 1,
    firmware: 'uefi',
    bus: 'sata',
    qemuArguments: ['-nic', 'user'],
    added: '2026-11-29T00:00:00.000Z',
    directory: machineDirectory(group),
  }
  writeMachine(machine)
  t.same(readMachine(group, 'web'), machine)
  t.same(machineNames(group), ['web'])
  mkdirSync(machineDirectory(group), { recursive: true })
  for (const text of ['{"version":1,"name":"other"}', '[]', JSON.stringify({ ...machine, firmware: 'coreboot' })]) {
    writeFileSync(join(machineDirectory(group), 'web.json'), text)
    t.throws(() => readMachine(group, 'web'), { code: 'DAMAGED_FILE' })
  }
})
