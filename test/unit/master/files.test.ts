import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { firstReign } from '../../../src/core/reigns.js'
import { makeDirectory, readJson, removeDurably, writeJson } from '../../../src/core/atomic-file.js'
import { readDeviceFacts } from '../../../src/core/device-facts.js'
import { encodeGroup, groupPath, readGroup } from '../../../src/master/group-file.js'
import { encodeVolume, identifyVolume, volumePath } from '../../../src/master/volume-file.js'

function scratch(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'files-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return directory
}

t.test('a volume keeps its uuid, and a device whose size has changed is refused with both sizes (exit 2)', t => {
  const state = scratch(t)
  const first = identifyVolume(state, 'disk1', '/dev/a', 4096n)
  t.equal(first.isNew, true)
  t.same(readdirSync(state), [], 'nothing is written by looking')
  writeJson(volumePath(state, 'disk1'), encodeVolume(first.identity))
  const again = identifyVolume(state, 'disk1', '/dev/b', 4096n)
  t.same(again, { identity: first.identity, isNew: false })
  t.throws(() => identifyVolume(state, 'disk1', '/dev/a', 1024n), {
    exitCode: 2,
    message: /1024 bytes .* had 4096 .*grow it back, or remove .*disk1.json/,
  })
  writeFileSync(volumePath(state, 'disk1'), '{"uuid": 1}')
  t.throws(() => identifyVolume(state, 'disk1', '/dev/a', 4096n), { code: 'DAMAGED_FILE' })
  t.end()
})

t.test('what a clean stop wrote is read back; what cannot be understood is an unclean stop', t => {
  const state = scratch(t)
  const record = {
    incarnation: 1n << 63n,
    generation: 'ab',
    history: [firstReign('ab', 'then')],
    excluded: { u: [0n, 1n << 50n] },
    live: {
      known: { replicaId: 'r', positions: [{ incarnation: 5n, durable: 8n }] },
      volumes: [{ uuid: 'u', device: '/d' }],
    },
    clean: {
      sequence: 9n,
      known: { replicaId: 'r', positions: [{ incarnation: 5n, durable: 8n }] },
      volumes: [{ uuid: 'u', device: '/d', changeMark: 'm' }],
      dirtySinceMs: 12,
    },
  }
  t.equal(readGroup(state, 'g'), undefined)
  writeJson(groupPath(state, 'g'), encodeGroup(record))
  t.same(readGroup(state, 'g'), record)
  writeJson(groupPath(state, 'g'), encodeGroup({ incarnation: 3n, generation: 'ab', history: [], excluded: {} }))
  t.equal(readGroup(state, 'g')?.clean, undefined)
  writeJson(groupPath(state, 'g'), { incarnation: '3', clean: { sequence: 'x', volumes: [] } })
  t.equal(readGroup(state, 'g')?.clean, undefined)
  t.end()
})

t.test('a JSON file is replaced as a whole, leaves nothing beside it, and a damaged one is named', t => {
  const path = join(scratch(t), 'a', 'b', 'file.json')
  t.equal(readJson(path), undefined)
  writeJson(path, { a: 1 })
  writeJson(path, { a: 2 })
  t.same(readJson(path), { a: 2 })
  t.same(readdirSync(join(path, '..')), ['file.json'])
  writeFileSync(path, readFileSync(path, 'utf8').slice(0, 4))
  t.throws(() => readJson(path), { code: 'DAMAGED_FILE', message: /file.json: the file is damaged/ })
  removeDurably(path)
  removeDurably(path)
  t.equal(readJson(path), undefined)
  makeDirectory(join(path, '..'))
  t.end()
})

t.test('a file tells its size, and its mark changes when anyone writes to it', t => {
  const path = join(scratch(t), 'image')
  writeFileSync(path, 'x'.repeat(1000))
  const before = readDeviceFacts(path, 'volume v')
  t.match(before, { sizeBytes: 1000n, isBlockDevice: false })
  t.equal(readDeviceFacts(path, 'volume v').changeMark, before.changeMark)
  truncateSync(path, 2000)
  t.not(readDeviceFacts(path, 'volume v').changeMark, before.changeMark)
  t.throws(() => readDeviceFacts('/dev/null', 'volume v'), {
    exitCode: 2,
    message: /neither a file nor a block device/,
  })
  t.throws(() => readDeviceFacts(`${path}.not`, 'volume v'), {
    code: 'ENOENT',
    message: /volume v: .*it does not exist/,
  })
  t.end()
})
