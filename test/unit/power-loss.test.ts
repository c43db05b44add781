import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { scratch } from '../support/daemon.js'
import { PowerHost, powerLibrary } from '../support/power-loss.js'

/** Runs `script` as a process of a host, then cuts the power. `chance`: what the dice say. */
function host(t: Test, before: Record<string, string>, script: string, chance: number, lie = false): string {
  const files = scratch(t)
  const root = files.path('host')
  mkdirSync(root)
  for (const [name, content] of Object.entries(before)) writeFileSync(join(root, name), content)
  const power = new PowerHost(root, files.path('journal'), powerLibrary())
  if (lie) power.lie()
  const program = `const fs = require('node:fs'); process.chdir(${JSON.stringify(root)});
    const sync = path => { const fd = fs.openSync(path, 'r+'); fs.fdatasyncSync(fd); fs.closeSync(fd) }
    const syncFolder = () => { const fd = fs.openSync('.', 'r'); fs.fsyncSync(fd); fs.closeSync(fd) }
    const put = (path, text, at) => { const fd = fs.openSync(path, 'r+'); fs.writeSync(fd, text, at); fs.closeSync(fd) }
    ${script}`
  execFileSync(process.execPath, ['-e', program], { env: { ...process.env, ...power.env() } })
  power.cut(() => chance)
  return root
}
const text = (root: string, name: string): string => readFileSync(join(root, name), 'latin1')
const names = (root: string): string[] => readdirSync(root).filter(name => name !== '.power').sort() // prettier-ignore
/** Dice that lose all names and contents, or all names and no contents. */
const [allLost, allKept] = [0, 0.3]

t.test('what was synced survives, what was not may be gone', async t => {
  const script = `put('a', 'new', 0); sync('a'); put('a', 'NEW', 4)`
  t.equal(text(host(t, { a: 'old old' }, script, allLost), 'a'), 'new old')
  t.equal(text(host(t, { a: 'old old' }, script, allKept), 'a'), 'new NEW')
})

t.test('a file that grew without a sync has its old size again', async t => {
  t.equal(text(host(t, { a: 'old' }, `put('a', 'longer', 2)`, allLost), 'a'), 'old')
  t.equal(text(host(t, { a: 'old' }, `put('a', 'longer', 2); sync('a')`, allLost), 'a'), 'ollonger')
  t.equal(text(host(t, { a: 'old' }, `fs.truncateSync('a', 1)`, allLost), 'a'), 'old')
})

t.test('a name is safe when its directory was synced after it', async t => {
  const made = `fs.writeFileSync('b', 'b'); sync('b');`
  t.strictSame(names(host(t, { a: 'a' }, made, allLost)), ['a'])
  t.strictSame(names(host(t, { a: 'a' }, `${made} syncFolder()`, allLost)), ['a', 'b'])
  const renamed = `${made} syncFolder(); fs.renameSync('b', 'a');`
  const back = host(t, { a: 'a' }, renamed, allLost)
  t.strictSame([text(back, 'a'), text(back, 'b')], ['a', 'b'])
  t.equal(text(host(t, { a: 'a' }, `${renamed} syncFolder()`, allLost), 'a'), 'b')
  t.strictSame(names(host(t, { a: 'a' }, `fs.unlinkSync('a')`, allLost)), ['a'])
  t.strictSame(names(host(t, { a: 'a' }, `fs.unlinkSync('a'); syncFolder()`, allLost)), [])
})

t.test('a sync that lies keeps nothing', async t => {
  t.equal(text(host(t, { a: 'old' }, `put('a', 'new', 0); sync('a')`, allLost, true), 'a'), 'old')
})
