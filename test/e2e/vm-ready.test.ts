/**
 * A machine's disks while they are being promoted, and while the machine runs: reads do not wait for replay or the disk,
 * writes do; nobody takes the disks away from under a guest; without QEMU nothing is promoted.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { Started } from '../../src/recovery/runs.js'
import {
  becomes,
  execute,
  inSync,
  type Pair,
  type PairOptions,
  scratch,
  sleep,
  sparseFile,
  startPair,
} from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'
import { preloaded } from '../support/preload.js'
import { startSuccession } from '../support/takeover.js'

const sizeBytes = 16 << 20
const block = 4096

const startMachine = async (t: Test, options: PairOptions = {}): Promise<Pair> =>
  withMachine(await startPair(t, { sizeBytes, ...options }))

async function withMachine(pair: Pair): Promise<Pair> {
  await new ControlClient(pair.standby.state).post('/vm/add', {
    ...{ name: 'web', group: pair.volume, memoryBytes: 64 << 20, cpus: 1, firmware: 'bios', bus: 'virtio' },
    qemuArguments: ['-accel', 'tcg'], // With nothing to boot from: it stands still.
  })
  return pair
}

const start = (pair: Pair, print: boolean): Promise<Started> =>
  new ControlClient(pair.standby.state).post<Started>('/vm/start', { machine: 'web', acceptLoss: true, print })

const diskOf = (pair: Pair): string => join(pair.scratch.path('store'), '.groups', pair.volume, 'nbd.sock')
const readWhole = async (path: string, offset: number, volume = 'disk1'): Promise<Buffer> => {
  const client = await NbdClient.attach({ path }, volume)
  const { data } = await client.read(offset, block)
  client.destroy()
  return data
}

void t.test('a promoted copy is read before its image is whole, and written to when its disk is (G2)', async t => {
  const files = scratch(t)
  const [faults, image] = [files.path('faults'), files.path('image')]
  mkdirSync(faults)
  const standbyEnv = { LD_PRELOAD: preloaded(files, 'io-shim'), IO_SHIM_FILE: image, IO_SHIM_FAULTS: faults }
  const pair = await startMachine(t, { standbyEnv })
  symlinkSync(pair.image, image)
  const last = Buffer.alloc(block, 'last')
  const client = await NbdClient.attach({ path: pair.socket }, 'disk1')
  writeFileSync(join(faults, 'hang-flush'), '')
  const isBehind = async (): Promise<boolean> => {
    await client.write(block, Buffer.alloc(block, 'more'))
    await client.flush()
    await sleep(300)
    const { applied, durable } = await pair.standby.volume('disk1')
    return applied !== durable
  }
  await becomes(t, 'the applier hangs in a sync', isBehind)
  await client.write(sizeBytes - block, last)
  await client.flush()
  await pair.master.kill()

  const asked = start(pair, true).catch((error: unknown) => error)
  await becomes(t, 'its disk is served', () => existsSync(diskOf(pair)))
  t.same(await readWhole(diskOf(pair), sizeBytes - block), last, 'the last block that was flushed is read')
  t.same(readFileSync(pair.image).subarray(sizeBytes - block), Buffer.alloc(block), 'although its image has it not')
  const early = await NbdClient.attach({ path: diskOf(pair) }, 'disk1')
  const written = early.write(0, Buffer.alloc(block, 'early')).catch(() => undefined)
  t.equal(await Promise.race([written, sleep(300).then(() => 'waits')]), 'waits', 'a write waits')
  t.same(readFileSync(pair.image).subarray(0, block), Buffer.alloc(block), 'and is not there')

  await pair.standby.kill()
  early.destroy()
  await asked
  rmSync(join(faults, 'hang-flush'))
  await pair.standby.restart()
  t.equal((await pair.standby.volume('disk1')).role, 'master', 'a daemon that is killed then goes on where it stood')
  const served = (): Promise<boolean> => readWhole(diskOf(pair), sizeBytes - block).then(data => data.equals(last), () => false) // prettier-ignore
  await becomes(t, 'and its machine has the last block again', served)
  const later = await NbdClient.attach({ path: diskOf(pair) }, 'disk1')
  await later.write(0, Buffer.alloc(block, 'later'))
  await later.flush()
  later.destroy()
  t.same(await readWhole(diskOf(pair), 0), Buffer.alloc(block, 'later'), 'and is written to from then on')
  const run = join(dirname(diskOf(pair)), 'running', 'web')
  const state = (): unknown => (JSON.parse(readFileSync(join(run, 'run.json'), 'utf8')) as { state: unknown }).state
  await becomes(t, 'its start, which had been begun, goes on', () => state() !== 'starting')
  t.same([state(), existsSync(join(run, 'pid'))], ['printed', false], 'as it was asked for: QEMU is run by others')
  t.equal((await pair.standby.command(['vm', 'stop', 'web'])).code, 0)
})

void t.test('nobody takes the disks from under a machine that runs; one that does not power off runs on', async t => {
  const pair = await startMachine(t)
  await pair.master.kill()
  const { pid } = await start(pair, false)
  t.teardown(() => existsSync(`/proc/${pid}`) && process.kill(pid, 'SIGKILL'))
  for (const action of [['demote'], ['switchover'], ['resolve', '--keep', 'peer']]) {
    const refused = await pair.standby.command([...action, 'disk1'])
    t.equal(refused.code, 3, action.join(' '))
    t.match(refused.stderr, new RegExp(`^understudy: ${action[0] ?? ''} disk1: web runs \\(process ${pid}\\) since [^\\n]*; 'understudy vm stop web' first\\n$`)) // prettier-ignore
  }
  const deaf = await pair.standby.command(['vm', 'stop', 'web', '--timeout', '1s'])
  t.equal(deaf.code, 1)
  t.equal(deaf.stderr, 'understudy: vm stop web: it has not powered off within 1 s; --force pulls its plug\n')
  t.ok(existsSync(`/proc/${pid}`), 'it runs on')
  t.equal((await pair.standby.volume('disk1')).role, 'master')
  t.equal((await pair.standby.command(['vm', 'stop', 'web', '--force'])).code, 0)
  t.not((await pair.standby.command(['demote', 'disk1'])).stderr.includes('vm stop'), 'then the machine is no reason')
})

void t.test('without QEMU a start says which package has it, and promotes nothing', async t => {
  const programs = scratch(t).path('bin')
  mkdirSync(programs)
  const { stdout } = await execute('which', ['flock'])
  symlinkSync(stdout.trim(), join(programs, 'flock'))
  const pair = await startMachine(t, { standbyEnv: { PATH: programs } })
  await pair.master.kill()
  const refused = await pair.standby.command(['vm', 'start', 'web', '--accept-loss'])
  t.equal(refused.code, 1)
  t.match(refused.stderr, /^understudy: vm start web: qemu-system-x86_64 is not installed; it is in the package qemu-system-x86: apt-get install [^\n]*\n$/) // prettier-ignore
  t.equal((await pair.standby.volume('disk1')).role, 'standby')
  const folder = join(pair.scratch.path('store'), '.groups', pair.volume)
  t.notOk(existsSync(join(folder, 'running', 'web')), 'and leaves nothing')
})

void t.test('a machine is started as of an earlier moment: all its disks are what they were then (G2)', async t => {
  const second = await sparseFile(scratch(t).path('second.img'), sizeBytes)
  const pair = await withMachine(
    await startSuccession(t, {
      ...{ sizeBytes, standby: ['--history', '1h'], toml: 'name = "disk1"' },
      volumeToml: `[[group.volume]]\nexport = "disk2"\ndevice = "${second}"`,
    }),
  )
  const volumes = ['disk1', 'disk2']
  const say = async (text: string): Promise<void> => {
    for (const volume of volumes) {
      const client = await NbdClient.attach({ path: pair.socket }, volume)
      await client.write(block, Buffer.alloc(block, `${text} ${volume}`))
      await client.flush()
      client.destroy()
    }
    await inSync(pair)
  }
  await say('then')
  t.match(await pair.standby.command(['mark', 'disk1', 'before']), { code: 0 })
  await say('since')
  await pair.master.kill()

  const vm = (...args: string[]) => pair.standby.command(['vm', ...args])
  t.match(await vm('start', 'web', '--at', 'before'), { code: 3, stderr: /is thrown away.*--accept-loss/ })
  t.match(await vm('start', 'web', '--at', 'never', '--accept-loss'), { code: 1, stderr: /the history goes from / })
  t.match(await pair.standby.volume('disk1'), { role: 'standby' }, 'nothing is done when it is refused')
  t.match(await vm('start', 'web', '--at', 'before', '--accept-loss'), { code: 0, stdout: /as of [^]*web: runs/ })
  for (const volume of volumes)
    t.same(await readWhole(diskOf(pair), block, volume), Buffer.alloc(block, `then ${volume}`), volume)
  t.match(await vm('list'), { code: 0, stdout: /promoted as of / })
  t.match(await vm('start', 'web', '--at', 'before', '--accept-loss'), { code: 3, stderr: /web runs / })
  t.equal((await vm('stop', 'web', '--force')).code, 0)
})
