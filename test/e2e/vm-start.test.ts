// timeout: 150
/**
 * On stage: a machine with a real kernel counts on its master's disk, with an fsync a number; the master is killed, and
 * `understudy vm start` runs the same machine on the standby's host, which finds at least the last number that was synced.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { DrillResult } from '../../src/recovery/drill-file.js'
import type { MachinesDocument } from '../../src/recovery/listing.js'
import type { Started } from '../../src/recovery/runs.js'
import {
  becomes,
  inSync,
  launch,
  logged,
  metric,
  metricBecomes,
  type Pair,
  type Program,
  sameBytes,
  scratch,
  sparseFile,
  startPair,
} from '../support/daemon.js'
import { buildGuest, type Guest, guestKernel } from '../support/machine.js'
import { NbdClient } from '../support/nbd-client.js'
import { Prober, startSuccession } from '../support/takeover.js'

const limitMs = 100_000

/** npm run test:long */
const isLong = process.env['UNDERSTUDY_LONG'] !== undefined

const client = (pair: Pair): ControlClient => new ControlClient(pair.standby.state)

async function addMachine(t: Test, pair: Pair, name: string, args: string[]): Promise<void> {
  await client(pair).post('/vm/add', {
    ...{ name, group: pair.volume, memoryBytes: 128 << 20, cpus: 1, firmware: 'bios', bus: 'virtio' },
    qemuArguments: args,
  })
  // It outlives its daemon: whatever happens here, it is gone at the end.
  t.teardown(() => pidOf(pair, name) > 0 && process.kill(pidOf(pair, name), 'SIGKILL'))
}

const runFolder = (pair: Pair): string => join(pair.scratch.path('store'), '.groups', pair.volume, 'running')
const left = (pair: Pair): string[] => (existsSync(runFolder(pair)) ? readdirSync(runFolder(pair)) : [])

/** Of the machine's QEMU; 0: it does not run. */
function pidOf(pair: Pair, name: string): number {
  const path = join(runFolder(pair), name, 'pid')
  if (!existsSync(path)) return 0
  const pid = Number(readFileSync(path, 'latin1'))
  return pid > 0 && existsSync(`/proc/${pid}`) ? pid : 0
}

/** What a machine says on its console from now on. */
function listen(t: Test, path: string): { readonly text: string } {
  const heard = { text: '' }
  const socket = connect(path).on('data', chunk => (heard.text += chunk.toString()))
  socket.on('error', () => undefined)
  t.teardown(() => socket.destroy())
  return heard
}

const start = (pair: Pair, machine: string, flags: object = {}): Promise<Started> =>
  client(pair).post<Started>('/vm/start', { machine, acceptLoss: true, ...flags })

/** Runs on the master's disks, and has said `numbers` of them. */
async function counting(t: Test, pair: Pair, guest: Guest, numbers: number, others: string[] = []): Promise<Program> {
  const disks = [pair.uri, ...others].flatMap(uri => ['-drive', `file=${uri},format=raw,if=virtio`])
  const common = ['-nodefaults', '-display', 'none', '-serial', 'stdio', '-m', '128', '-no-reboot']
  const machine = launch(t, 'machine', 'qemu-system-x86_64', [...common, ...guest.arguments('count'), ...disks])
  await machine.printed(new RegExp(`^COUNTER ${numbers}\\b`, 'm'), limitMs)
  return machine
}

/** The last number whose fsync had returned. */
const lastOf = (machine: Program): number =>
  Math.max(...[...machine.stdout.matchAll(/^COUNTER (\d+)\r?$/gm)].map(match => Number(match[1])))

/** Master and machine are killed at once. */
async function countAndDie(t: Test, pair: Pair, guest: Guest, numbers: number, others: string[] = []): Promise<number> {
  const machine = await counting(t, pair, guest, numbers, others)
  await pair.master.kill()
  await machine.kill()
  return lastOf(machine)
}

void t.test('a machine goes on where its disks were synced last', async t => {
  const pair = await startPair(t)
  const guest = await buildGuest(pair.scratch)
  await addMachine(t, pair, 'web', guest.arguments('count'))
  await addMachine(t, pair, 'twin', [])
  const last = await countAndDie(t, pair, guest, 10)

  await t.test('it is not started while the master may have written more', async t => {
    const refused = await pair.standby.command(['vm', 'start', 'web'])
    t.same([refused.code, left(pair)], [3, []])
    t.match(refused.stderr, /^understudy: vm start web: promote disk1: .* say --accept-loss\n$/)
  })

  await t.test('two requests at once start one machine, which finds the last number that was synced', async t => {
    const askedMs = performance.now()
    const both = await Promise.allSettled([start(pair, 'web'), start(pair, 'web')])
    const [started] = both.flatMap(result => (result.status === 'fulfilled' ? [result.value] : []))
    const [refused] = both.flatMap(result => (result.status === 'rejected' ? [result.reason as Error] : []))
    t.match(refused?.message, /^vm start web: web is being started since /)
    t.equal(pidOf(pair, 'web'), started?.pid, 'it runs')
    const heard = listen(t, started?.console ?? '')
    await becomes(t, 'it says what its disk holds', () => heard.text.includes('HOLDS '), limitMs)
    t.comment(`from the request to the guest's word: ${Math.round(performance.now() - askedMs)} ms`)
    const found = Number(/HOLDS (\d+)/.exec(heard.text)?.[1])
    t.ok(found >= last, `${found} is at least ${last}`)
    await metricBecomes(t, pair.metrics.standby, 'understudy_machine_running', 1, { machine: 'web' })
    const again = await pair.standby.command(['vm', 'start', 'web', '--accept-loss'])
    t.same([again.code, /runs \(process \d+\) since/.test(again.stderr)], [3, true])
    const twin = await pair.standby.command(['vm', 'start', 'twin', '--accept-loss'])
    t.same([twin.code, /vm start twin: web runs/.test(twin.stderr)], [3, true], 'and no other on the same disks')
    const descriptors = readdirSync(`/proc/${started?.pid ?? 0}/fd`).length
    t.ok(descriptors < 60, `${descriptors} files: none of the daemon's`)
  })

  await t.test('it outlives a daemon that is killed, and has its disks again with the next one', async t => {
    const pid = pidOf(pair, 'web')
    await pair.standby.kill()
    await pair.standby.restart()
    t.equal(pidOf(pair, 'web'), pid)
    await metricBecomes(t, pair.metrics.standby, 'understudy_machine_running', 1, { machine: 'web' })
    await logged(t, pair.standby, /connected to export 'disk1'/, 'its disk is served again')
    const heard = listen(t, join(runFolder(pair), 'web/console'))
    await becomes(t, 'and it goes on counting', () => heard.text.includes('COUNTER '), limitMs)
    const stopped = await pair.standby.command(['vm', 'stop', 'web'])
    t.same([stopped.code, stopped.stdout], [0, 'web: it has ended\n'], stopped.stderr)
    await becomes(t, 'the guest was asked to, and did', () => heard.text.includes('POWER BUTTON'))
    t.same([pidOf(pair, 'web'), left(pair)], [0, []], 'and nothing is left')
    const printed = await pair.standby.command(['vm', 'start', 'web', '--print'])
    t.match(printed.stdout, /^qemu-system-x86_64 .*nbd\.sock/, 'what to run instead')
    t.equal((await pair.standby.command(['vm', 'stop', 'web'])).code, 0)
  })
})

if (isLong)
  void t.test('a drill has passed when a program of the guest accepts connections to a port', async t => {
    const pair = await startPair(t, { sizeBytes: 16 << 20 })
    await addMachine(t, pair, 'door', (await buildGuest(pair.scratch)).arguments('listen'))
    const drill = await pair.standby.command(['vm', 'drill', 'door', '--port', '22', '--timeout', '90s'], { limitMs })
    t.match(drill.stdout, /^door: drill passed after .*: TCP port 22 answers\n$/)
  })

/** The kernel for guests says on the console which firmware its EFI stub was started by. OVMF takes its time without KVM. */
if (isLong)
  void t.test(
    'a machine with --firmware uefi boots with OVMF, and a drill leaves its variables as they are',
    async t => {
      const pair = await startPair(t)
      await inSync(pair)
      await client(pair).post('/vm/add', {
        ...{ name: 'web', group: pair.volume, memoryBytes: 512 << 20, cpus: 1, firmware: 'uefi', bus: 'virtio' },
        qemuArguments: ['-accel', 'tcg', '-kernel', guestKernel, '-append', 'console=ttyS0 panic=-1'],
      })
      const variables = join(pair.scratch.path('store'), '.groups', pair.volume, 'machines/web.vars')
      const before = readFileSync(variables)
      const args = ['vm', 'drill', 'web', '--marker', 'EFI v2', '--timeout', '90s']
      const drill = await pair.standby.command(args, { limitMs })
      t.match(drill.stdout, /^web: drill passed after .*: the console said 'EFI v2'\n$/)
      t.ok(before.equals(readFileSync(variables)))
    },
  )

if (isLong)
  void t.test(
    'two disks at ten earlier moments: each exactly what was synced then, the second never before the first (G2)',
    async t => {
      const { pair, guest, others } = await twoDiskMachine(t)
      const last = await countAndDie(t, pair, guest, 40, others)
      const flushes = await flushesOf(pair)
      t.ok(flushes.length >= 2 * last, `${flushes.length} flushes for ${last} numbers on two disks`)

      let before = [-1, -1]
      for (let moment = 1; moment <= 10; moment++) {
        const flush = flushes[Math.floor((flushes.length * moment) / 10) - 1]
        const at = `${flush?.incarnation}:${flush?.sequence}`
        const shown = await Promise.all(['disk1', 'disk2'].map(volume => numberAt(pair, volume, at)))
        const drill = await pair.standby.command(
          ['vm', 'drill', 'web', '--at', at, '--marker', 'COUNTER ', '--timeout', '90s', '--json'],
          { limitMs },
        )
        const { console: lines = [] } = JSON.parse(drill.stdout) as { console?: string[] }
        const held = /^HOLDS (-?\d+) (-?\d+)/m.exec(lines.join('\n'))?.slice(1).map(Number) ?? []
        const [first = NaN, second = NaN] = held
        t.same(held, shown, `${at}: ${held.join(' ')}, as an export of the moment has it`)
        t.ok(first === second || first === second + 1, 'the second disk follows the first')
        t.ok(first >= (before[0] ?? 0) && second >= (before[1] ?? 0), 'and neither goes back')
        before = held
      }
      t.ok((before[0] ?? -1) >= last, `the last of them has all that was synced: ${last}`)

      const started = await start(pair, 'web')
      const heard = listen(t, started.console)
      await becomes(t, 'it says what its disks hold', () => heard.text.includes('COUNTER '), limitMs)
      const [, first, second] = /HOLDS (\d+) (\d+)/.exec(heard.text) ?? []
      t.ok(
        Number(first) >= last && Number(first) - Number(second) <= 1,
        `started: ${first} ${second}, at least ${last}`,
      )
      t.equal((await pair.standby.command(['vm', 'stop', 'web', '--force'])).code, 0)
    },
  )

if (isLong)
  void t.test(
    'eight drills at once, each at another moment: each prints exactly its counters; replication goes on untouched (G2)',
    async t => {
      const { pair, guest, others } = await twoDiskMachine(t)
      const machine = await counting(t, pair, guest, 40, others)
      await machine.kill()
      await inSync(pair)
      const flushes = await flushesOf(pair)
      const last = lastOf(machine)
      t.ok(
        Math.abs(flushes.length - 2 * last) <= 2,
        `a flush a number on each disk: ${flushes.length}, ${last} numbers`,
      )
      const descriptors = (): number => readdirSync(`/proc/${pair.standby.program.pid}/fd`).length
      const before = descriptors()
      const prober = await Prober.start(pair.socket, 'disk1', { offset: 8 << 20, blocks: 256 })

      // Flush 1 is that of the first number on the first disk, flush 2 that on the second, and so on: nobody else wrote.
      const moments = Array.from(
        { length: 8 },
        (_, index) => Math.floor((flushes.length * (index + 1)) / 8) - (index % 2),
      )
      const drilled = Promise.all(
        moments.map(async moment => {
          const { incarnation, sequence } = flushes[moment - 1] ?? {}
          const flags = ['--at', `${incarnation}:${sequence}`, '--marker', 'COUNTER ', '--timeout', '5min', '--json']
          const ended = await pair.standby.command(['vm', 'drill', 'web', ...flags], { limitMs: 3 * limitMs })
          return JSON.parse(ended.stdout) as DrillResult
        }),
      )
      await metricBecomes(t, pair.metrics.standby, 'understudy_drills_running', 8, { machine: 'web' })
      await becomes(t, 'all of them run', () => drillsOf(pair).length === 8, limitMs)
      const pids = drillsOf(pair)
      const { applied } = await pair.master.volume('disk1')
      await prober.answered(200)
      await pair.master.until('disk1', 'what is written meanwhile is applied', volume => BigInt(volume.applied) > BigInt(applied) + 100n) // prettier-ignore
      t.same(drillsOf(pair), pids, 'and they run still')
      const results = await drilled
      for (const [index, moment] of moments.entries()) {
        const { passed = false, console = [] } = results[index] ?? {}
        const held = /^HOLDS (-?\d+) (-?\d+)/m.exec(console.join('\n'))?.slice(1).map(Number)
        t.same([passed, held], [true, [Math.ceil(moment / 2), Math.floor(moment / 2)]], `flush ${moment}`)
        if (!passed) t.comment(JSON.stringify(results[index]))
      }
      const { machines } = JSON.parse((await pair.standby.command(['vm', 'list', '--json'])).stdout) as MachinesDocument
      t.equal(machines[0]?.lastDrill?.passed, true)
      await metricBecomes(t, pair.metrics.standby, 'understudy_drills_total', 8, { machine: 'web', result: 'passed' })
      await prober.stop()
      t.equal(prober.failure, undefined)
      for (const reason of ['peer-timeout', 'log-full'])
        t.equal(await metric(pair.metrics.master, 'understudy_detaches_total', { reason }), 0, `no detach: ${reason}`)

      await becomes(t, 'nothing is left of them: no file', () => left(pair).length === 0)
      await becomes(t, 'no process', () => !pids.some(pid => existsSync(`/proc/${pid}`)))
      await becomes(t, 'no view, no socket', () => descriptors() <= before)
      await inSync(pair)
      await pair.master.stop()
      await pair.standby.stop()
      await sameBytes(t, pair.device, pair.image, 'the copy has not seen them')
    },
  )

/** The processes of all drills that have begun. */
const drillsOf = (pair: Pair): number[] =>
  left(pair)
    .map(name => pidOf(pair, name))
    .filter(pid => pid > 0)
    .sort((a, b) => a - b)

/** One group of the volumes disk1 and disk2, and a standby that keeps a history. */
async function startTwoDisks(t: Test): Promise<Pair> {
  const second = await sparseFile(scratch(t).path('second.img'), 16 << 20)
  return startSuccession(t, {
    ...{ sizeBytes: 16 << 20, standby: ['--history', '1h'], toml: 'name = "disk1"\npeer_timeout = "60s"' },
    volumeToml: `[[group.volume]]\nexport = "disk2"\ndevice = "${second}"`,
  })
}

/** A machine that counts on two disks of one group, with a history of both; `others`: the second, for counting(). */
async function twoDiskMachine(t: Test): Promise<{ pair: Pair; guest: Guest; others: string[] }> {
  const pair = await startTwoDisks(t)
  const guest = await buildGuest(pair.scratch)
  await addMachine(t, pair, 'web', guest.arguments('count'))
  return { pair, guest, others: [pair.uri.replace('disk1?', 'disk2?')] }
}

/** Oldest first. */
async function flushesOf(pair: Pair): Promise<{ incarnation: string; sequence: string }[]> {
  const { stdout } = await pair.standby.command(['history', pair.volume, '--json'])
  const { points } = JSON.parse(stdout) as { points: { kind: string; incarnation: string; sequence: string }[] }
  const flushes = points.filter(({ kind }) => kind === 'flush')
  return flushes.sort((a, b) => Number(BigInt(a.sequence) - BigInt(b.sequence)))
}

/** What the guest has written there, as an export of that moment has it. */
async function numberAt(pair: Pair, volume: string, at: string): Promise<number> {
  const path = pair.scratch.path(`${volume}-at.sock`)
  const address = `unix:${path}`
  const exported = await pair.standby.command(['export', volume, '--at', at, '--listen', address, '--detach'])
  if (exported.code !== 0) throw new Error(exported.stderr)
  const reader = await NbdClient.attach({ path }, volume)
  const { data } = await reader.read(65_536, 4096)
  reader.destroy()
  await pair.standby.command(['export', volume, '--end', '--listen', address])
  return data[0] === 0 ? 0 : Number.parseInt(data.toString('latin1'))
}

void t.test('a daemon that is killed in the middle of a start leaves nothing, or goes on', async t => {
  const pair = await startPair(t, { sizeBytes: 16 << 20 })
  await addMachine(t, pair, 'web', ['-accel', 'tcg']) // With nothing to boot from: it stands still.
  await pair.master.kill()
  for (const delayMs of isLong ? [0, 3, 10, 30, 100] : [10]) {
    const asked = start(pair, 'web').catch((error: unknown) => error)
    await new Promise(resolve => setTimeout(resolve, delayMs))
    await pair.standby.kill()
    await asked
    await pair.standby.restart()
    const isPromoted = async (): Promise<boolean> => (await pair.standby.volume('disk1')).role === 'master'
    if (!(await isPromoted())) {
      await becomes(t, `${delayMs} ms: not promoted, and nothing is left`, () => left(pair).length === 0)
      continue
    }
    await becomes(t, `${delayMs} ms: promoted, and it runs or was not asked for`, () => left(pair).length === 0 || pidOf(pair, 'web') > 0) // prettier-ignore
    if (pidOf(pair, 'web') > 0) {
      await metricBecomes(t, pair.metrics.standby, 'understudy_machine_running', 1, { machine: 'web' })
      t.equal((await pair.standby.command(['vm', 'stop', 'web', '--force'])).code, 0)
    }
    t.same(left(pair), [], 'and ends as any other')
  }
})
