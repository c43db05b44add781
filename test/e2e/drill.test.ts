// timeout: 100
/**
 * Drills: a machine on the standby's copy, thrown away afterwards, while replication goes on. The guest is a boot sector that
 * says what is in a sector deep in the disk, and then stands still.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { DrillEvent } from '../../src/daemon/recovery-routes.js'
import type { DrillRequest } from '../../src/recovery/drills.js'
import type { LastDrill, MachinesDocument } from '../../src/recovery/listing.js'
import { bootSector, textSector } from '../support/boot-sector.js'
import {
  becomes,
  inSync,
  logged,
  metric,
  metricBecomes,
  type Output,
  type Pair,
  startPair,
  succeed,
  understudy,
} from '../support/daemon.js'
import { takeOver } from '../support/takeover.js'

const SECTOR = 2048
const limitMs = 100_000

/** Through the master, as a client. */
async function say(pair: Pair, text: string): Promise<void> {
  const path = pair.scratch.path('text')
  await writeFile(path, textSector(text))
  const write = ['-c', `write -q -s ${path} ${SECTOR * 512} 512`, '-c', 'flush']
  await succeed('qemu-io', ['-f', 'raw', ...write, pair.uri])
}

/** Accelerated as the daemon finds that this host can. */
const addMachine = (pair: Pair, name: string): Promise<unknown> =>
  new ControlClient(pair.standby.state).post('/vm/add', {
    ...{ name, group: pair.volume, memoryBytes: 16 << 20, cpus: 1, firmware: 'bios', bus: 'virtio' },
    qemuArguments: [],
  })

/** Until it ends; the daemon's end is one, too. */
async function held(pair: Pair, flags: Partial<DrillRequest> = {}): Promise<DrillEvent[]> {
  const events: DrillEvent[] = []
  const wish = { machine: 'web', marker: 'never', port: 0, timeoutMs: limitMs, ...flags }
  for await (const event of new ControlClient(pair.standby.state).stream<DrillEvent>('/vm/drill', wish))
    events.push(event)
  return events
}

const drill = (pair: Pair, ...flags: string[]): Promise<Output> =>
  pair.standby.command(['vm', 'drill', 'web', '--timeout', '90s', ...flags], { limitMs })

async function lastDrill(pair: Pair, machine: string): Promise<LastDrill | null | undefined> {
  const { stdout } = await pair.standby.command(['vm', 'list', '--json'])
  return (JSON.parse(stdout) as MachinesDocument).machines.find(({ name }) => name === machine)?.lastDrill
}

const runFolder = (pair: Pair): string => join(pair.scratch.path('store'), '.groups', pair.volume, 'running')
const running = (pair: Pair): string[] => (existsSync(runFolder(pair)) ? readdirSync(runFolder(pair)) : [])

/** Of every drill that runs. */
const processes = (pair: Pair): number[] =>
  running(pair).flatMap(name => {
    const path = join(runFolder(pair), name, 'pid')
    return existsSync(path) ? [Number(readFileSync(path, 'latin1'))] : []
  })

const isThere = (pid: number): boolean =>
  existsSync(`/proc/${pid}/cmdline`) && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('qemu-system')

const nothingLeft = (t: Test, pair: Pair): Promise<void> =>
  becomes(t, 'nothing is left of it', () => running(pair).length === 0)

void t.test('drills of a machine', async t => {
  const pair = await startPair(t, { standby: ['--history', '1h'] })
  const boot = pair.scratch.path('boot')
  await writeFile(boot, bootSector(SECTOR))
  await succeed('qemu-io', ['-f', 'raw', '-c', `write -q -s ${boot} 0 512`, pair.uri])
  await say(pair, 'counter 41')
  await inSync(pair)
  await addMachine(pair, 'web')
  const labels = { machine: 'web' }

  await t.test('what is asked for wrongly is refused in one line', async t => {
    const nothing = await drill(pair)
    t.same([nothing.code, nothing.stderr], [2, 'understudy: vm drill: what is it to wait for? --marker TEXT on the console, or --port N\n']) // prettier-ignore
    const nobody = await pair.standby.command(['vm', 'drill', 'mail', '--marker', 'x'])
    t.match(await drill(pair, '--marker', 'x', '--timeout', '0'), { code: 2, stderr: /'0' is no time at all/ })
    t.match(await drill(pair, '--marker', 'x', '--at', ''), { code: 2, stderr: /--at is empty/ })
    t.same([nobody.code, nobody.stderr], [1, "understudy: vm drill mail: there is no machine 'mail' here; there are: web\n"]) // prettier-ignore
    const stopped = await pair.standby.command(['vm', 'stop', 'web'])
    t.same([stopped.code, stopped.stderr], [1, 'understudy: vm stop web: it does not run here\n'])
    t.equal(await metric(pair.metrics.standby, 'understudy_drills_total', labels), 0, 'none has been')
  })

  await t.test('it has passed when the console says the marker; the copy stays as it is', async t => {
    const before = readFileSync(pair.image)
    const passed = await drill(pair, '--marker', 'counter 41')
    t.equal(passed.code, 0, passed.stderr)
    t.match(passed.stdout, /^web: drill passed after [\d.]+ s at sequence \d+: the console said 'counter 41'\n$/)
    t.ok(before.equals(readFileSync(pair.image)), 'no byte of the image has changed')
    await metricBecomes(t, pair.metrics.standby, 'understudy_drill_last_passed', 1, labels)
    await metricBecomes(t, pair.metrics.standby, 'understudy_drills_total', 1, { ...labels, result: 'passed' })
    await nothingLeft(t, pair)
  })

  await t.test('it has failed when the marker does not come in time, and the last lines are kept', async t => {
    const failed = await drill(pair, '--marker', 'login:', '--timeout', '2s')
    t.equal(failed.code, 1)
    t.match(failed.stdout, /^web: drill FAILED .*: the console did not say 'login:' within 2 s\n/)
    t.match(failed.stdout, /\n {2}\| .*counter 41\n/, "the console's last lines")
    t.match(await lastDrill(pair, 'web'), { passed: false, reason: "the console did not say 'login:' within 2 s" })
    await metricBecomes(t, pair.metrics.standby, 'understudy_drills_total', 1, { ...labels, result: 'failed' })
    await nothingLeft(t, pair)
  })

  await t.test('eight at once, each at a moment of its own, say exactly what the disk said then (G2)', async t => {
    const moments: { text: string; at: string }[] = []
    for (let count = 1; count <= 8; count++) {
      await say(pair, `moment ${count}`)
      moments.push({ text: `moment ${count}`, at: (await inSync(pair)).written })
    }
    await say(pair, 'counter 41')
    const all = await Promise.all(moments.map(({ text, at }) => held(pair, { marker: text, at })))
    const results = all.flatMap(events => events.flatMap(event => (event.done ? [event.result] : [])))
    t.match(
      results,
      moments.map(({ text, at }) => ({
        reason: `the console said '${text}'`,
        passed: true,
        position: { sequence: at },
      })),
    )
    const begun = results.map(({ startedAt }) => Date.parse(startedAt))
    const ended = results.map(({ seconds }, index) => (begun[index] ?? 0) + seconds * 1000)
    t.ok(Math.max(...begun) < Math.min(...ended), 'all of them ran at once')
    await nothingLeft(t, pair)
  })

  await t.test('eight run at once while clients write, each on a cut of its own; a ninth is refused', async t => {
    const all = Promise.allSettled(Array.from({ length: 8 }, () => held(pair)))
    await metricBecomes(t, pair.metrics.standby, 'understudy_drills_running', 8, labels)
    const ninth = await drill(pair, '--marker', 'never')
    t.same([ninth.code, ninth.stderr], [1, 'understudy: vm drill web: 8 drills are running already; wait for one to end\n']) // prettier-ignore
    const removed = await pair.standby.command(['vm', 'remove', 'web'])
    t.same([removed.code, removed.stderr], [3, 'understudy: vm remove web: a drill of it runs\n'])
    await say(pair, 'counter 42')
    await inSync(pair)
    await becomes(t, 'all of them run', () => processes(pair).length === 8)
    const promoted = await pair.standby.command(['promote', pair.volume, '--accept-loss'])
    t.match(
      promoted.stderr,
      /^understudy: promote disk1: a drill of machine web runs on the copy; wait for its end, [^;]*\n$/,
      'and none has its copy taken away',
    )

    const pids = processes(pair)
    await pair.standby.kill()
    await becomes(t, 'they end with a daemon that is killed', () => !pids.some(isThere))
    t.ok(
      (await all).every(({ status }) => status === 'rejected'),
      'whoever waited for them is told',
    )
    await pair.standby.restart()
    await nothingLeft(t, pair)
    await logged(t, pair.standby, /vm drill web: FAILED .*the daemon was ended in the middle of it/)
    await inSync(pair)
    t.equal((await drill(pair, '--marker', 'counter 42')).code, 0, 'the next one shows what was written meanwhile')
  })

  await t.test('a promotion beside a throw-away machine says what holds the copy, and how to end it', async t => {
    t.match(await pair.standby.command(['vm', 'start', 'web', '--throw-away'], { limitMs }), { code: 0 })
    const promoted = await pair.standby.command(['promote', pair.volume, '--accept-loss'])
    t.same([promoted.code, promoted.stderr], [1, "understudy: promote disk1: machine web runs on the copy (vm start --throw-away); end it first: 'understudy vm stop web'\n"]) // prettier-ignore
    t.match(await pair.standby.command(['vm', 'stop', 'web', '--force']), { code: 0 })
    await nothingLeft(t, pair)
  })

  // Ctrl-C made the machine one that does not come up (found by hand).
  await t.test('one that is given up ends, and is neither one that passed nor one that failed', async t => {
    const failed = { ...labels, result: 'failed' }
    const before = await metric(pair.metrics.standby, 'understudy_drills_total', failed)
    const args = ['vm', 'drill', 'web', '--marker', 'never', '--state', pair.standby.state]
    const asked = understudy(t, 'drill', args)
    await becomes(t, 'it runs', () => processes(pair).length === 1)
    const pids = processes(pair)
    asked.signal('SIGINT')
    t.equal((await asked.gone()).code, 1)
    await becomes(t, 'its machine is gone', () => !pids.some(isThere))
    await nothingLeft(t, pair)
    await logged(t, pair.standby, /vm drill web: stopped .*: it was given up by who asked for it/)
    t.equal(await metric(pair.metrics.standby, 'understudy_drills_total', failed), before)
    t.match((await lastDrill(pair, 'web'))?.reason, "the console said 'counter 42'", 'the last one is the one before')
  })

  await t.test('repeated ones run by themselves', async t => {
    await addMachine(pair, 'again')
    const ask = ['vm', 'drill', 'again', '--marker', 'counter 42', '--every']
    t.match((await pair.standby.command([...ask, '1s'])).stderr, /'1s' is less than a minute/)
    t.equal((await pair.standby.command([...ask, '2h'])).stdout, 'again: a drill every 2h 00m from now on\n')
    const passed = { machine: 'again', result: 'passed' }
    await metricBecomes(t, pair.metrics.standby, 'understudy_drills_total', 1, passed)
    const schedules = (): string => readFileSync(join(runFolder(pair), '../drills.json'), 'utf8')
    t.match(schedules(), /"everyMs": 7200000/, 'it is kept')
    const { startedAt = '' } = (await lastDrill(pair, 'again')) ?? {}
    const next = new Date(Date.parse(startedAt) + 7_200_000).toISOString()
    t.match(
      (await pair.standby.command(['vm', 'list'])).stdout,
      new RegExp(`^again .* ${next} +${startedAt} passed`, 'm'),
    )
    await new ControlClient(pair.standby.state).post('/vm/repeat-drill', { machine: 'again' })
    t.notMatch(schedules(), /everyMs/)
    await nothingLeft(t, pair)
  })

  // --at was taken with --every, and the newest was drilled (found by hand).
  await t.test('repeated ones are of the moment that was asked for', async t => {
    await addMachine(pair, 'earlier')
    const ask = ['vm', 'drill', 'earlier', '--marker', 'counter 42', '--every', '2h', '--at']
    t.match(await pair.standby.command([...ask, '2026-02-30T00:00Z']), { code: 2, stderr: /there is no such day/ })
    t.match(await pair.standby.command([...ask, '-1h']), { code: 0 })
    const failed = { machine: 'earlier', result: 'failed' }
    await metricBecomes(t, pair.metrics.standby, 'understudy_drills_total', 1, failed)
    t.match((await lastDrill(pair, 'earlier'))?.reason, /there is no moment '-1h'/, 'which is not to be had here')
    await new ControlClient(pair.standby.state).post('/vm/repeat-drill', { machine: 'earlier' })
  })

  await t.test(
    'one that a takeover ends counts neither as passed nor as failed, and is due again if it is repeated',
    async t => {
      const config = pair.scratch.path('standby.toml')
      await writeFile(
        config,
        `state = "${pair.standby.state}"
[metrics]
listen = "127.0.0.1:${pair.metrics.standby}"
[standby]
store = "${pair.scratch.path('store')}"
listen = "${pair.standbyAddress}"
allow = ["${pair.masterId}"]
`,
      )
      await addMachine(pair, 'third')
      const schedule = { machine: 'third', marker: 'never', port: 0, timeoutMs: limitMs, everyMs: 3_600_000 }
      await new ControlClient(pair.standby.state).post('/vm/repeat-drill', schedule)
      await metricBecomes(t, pair.metrics.standby, 'understudy_drills_running', 1, { machine: 'third' })
      const asked = held(pair)
      await becomes(t, 'both run', () => processes(pair).length === 2)
      const pids = processes(pair)
      t.match(await takeOver(t, pair.standby, config), { code: 0 })
      t.match((await asked).at(-1), {
        result: { passed: false, stopped: true, reason: 'another daemon goes on in place of this one' },
      })
      t.notOk(pids.some(isThere), 'they have ended')
      t.match(await lastDrill(pair, 'web'), { passed: true }, 'the last one is the one before')
      t.equal(await lastDrill(pair, 'third'), null)
      await metricBecomes(t, pair.metrics.standby, 'understudy_drills_running', 1, { machine: 'third' })
      t.equal(await metric(pair.metrics.standby, 'understudy_drills_total', { machine: 'third', result: 'failed' }), 0)
      await new ControlClient(pair.standby.state).post('/vm/repeat-drill', { machine: 'third' })
    },
  )
})
