import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { exitCodeOf, SafetyRefusal } from '../../../src/core/errors.js'
import { loadIdentity } from '../../../src/daemon/identity.js'
import { lockStateDirectory, prepareStateDirectory } from '../../../src/daemon/state-directory.js'

function scratch(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'state-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return join(directory, 'state')
}

const mode = (path: string): number => statSync(path).mode & 0o777

let keys = 0
const addon = { createIdentity: () => `KEY ${++keys}`, identityFingerprint: (pem: string) => `fingerprint of ${pem}` }

t.test('the state directory is made private to its user', async t => {
  const state = scratch(t)
  prepareStateDirectory(state)
  t.equal(mode(state), 0o700)
  chmodSync(state, 0o755)
  prepareStateDirectory(state)
  t.equal(mode(state), 0o700, 'an empty one is tightened')
})

t.test('a directory that holds other things and that others can write to is refused, and left as it is', async t => {
  const state = scratch(t)
  mkdirSync(state)
  writeFileSync(join(state, 'letter'), '')
  chmodSync(state, 0o777)
  t.throws(() => prepareStateDirectory(state), SafetyRefusal)
  t.equal(mode(state), 0o777)
})

t.test('of two daemons on one state directory the second is refused, with the process that holds it', async t => {
  const state = scratch(t)
  prepareStateDirectory(state)
  const lock = lockStateDirectory(state)
  try {
    lockStateDirectory(state)
    t.fail('it was locked twice')
  } catch (error) {
    t.equal(exitCodeOf(error), 3)
    t.match((error as Error).message, new RegExp(`another daemon uses it \\(process ${process.pid}\\)`))
  }
  lock.release()
  lockStateDirectory(state).release()
})

t.test('the lock of a daemon that was killed is free', async t => {
  const state = scratch(t)
  prepareStateDirectory(state)
  const holder = spawn('flock', ['--no-fork', join(state, 'lock'), 'sleep', '60'])
  const held = (): boolean => {
    try {
      lockStateDirectory(state).release()
      return false
    } catch {
      return true
    }
  }
  for (let attempt = 0; attempt < 3000 && !held(); attempt++) await new Promise(resolve => setTimeout(resolve, 20))
  t.ok(held())
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  t.notOk(held())
})

t.test('the key is made once, for its owner only, and nothing else is left', async t => {
  const state = scratch(t)
  prepareStateDirectory(state)
  const first = loadIdentity(state, addon)
  t.same(loadIdentity(state, addon), first)
  t.equal(first.id, `fingerprint of ${first.pem}`)
  t.same(readdirSync(join(state, 'identity')), ['key.pem'])
  t.equal(mode(join(state, 'identity')), 0o700)
  t.equal(mode(join(state, 'identity', 'key.pem')), 0o600)
  t.equal(readFileSync(join(state, 'identity', 'key.pem'), 'utf8'), first.pem)
})

t.test('a rotation that was cut short before its rename leaves the old key', async t => {
  const state = scratch(t)
  prepareStateDirectory(state)
  const first = loadIdentity(state, addon)
  const cut = { ...addon, createSuccessor: () => 'NEW' }
  mkdirSync(join(state, 'identity', 'key.pem.new'))
  t.throws(() => first.rotate(state, cut), { message: /identity .*key\.pem: cannot replace it/ })
  t.equal(first.pem, loadIdentity(state, addon).pem, 'in memory as on disk')
  rmdirSync(join(state, 'identity', 'key.pem.new'))
  let told = 0
  first.onChange(() => told++)
  first.rotate(state, cut)
  t.equal(told, 1)
  t.equal(loadIdentity(state, addon).pem, 'NEW')
  t.equal(mode(join(state, 'identity', 'key.pem')), 0o600)
})

t.test('a key that others can read is refused, with the command that mends it (exit code 2)', async t => {
  const state = scratch(t)
  prepareStateDirectory(state)
  loadIdentity(state, addon)
  const path = join(state, 'identity', 'key.pem')
  chmodSync(path, 0o640)
  try {
    loadIdentity(state, addon)
    t.fail('it was used')
  } catch (error) {
    t.equal(exitCodeOf(error), 2)
    t.match((error as Error).message, `chmod 600 ${path}`)
  }
})

t.test('a key that is none is named', async t => {
  const state = scratch(t)
  prepareStateDirectory(state)
  const broken = {
    ...addon,
    identityFingerprint: () => {
      throw Object.assign(new Error('bad PEM'), { code: 'EINVAL' })
    },
  }
  t.throws(() => loadIdentity(state, broken), { message: /key\.pem: this is not a usable private key: bad PEM/ })
})
