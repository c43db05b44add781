/** What --on-event is told, with real commands. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Test, test } from 'tap'

import { systemClock } from '../../../src/core/clock.js'
import { createLogger } from '../../../src/core/log.js'
import type { VolumeStatus } from '../../../src/core/status-types.js'
import { type DaemonEvent, drillEvent, EventCommand } from '../../../src/daemon/event-command.js'
import { standbyStatus } from '../metrics/fake-source.js'
import { FakeClock } from '../transport/fakes.js'

interface Stage {
  clock: FakeClock
  volumes: VolumeStatus[]
  events: EventCommand
  lines: string[]
  file: string
  told: () => string[]
}

function stage(t: Test, command: (file: string) => string, limitMs = 60_000): Stage {
  const file = join(t.testdir({}), 'told')
  const clock = new FakeClock()
  // Looks are moved by the test; commands are real, and so is the time they take.
  const mixed = { ...systemClock, every: clock.every.bind(clock) }
  const volumes = [{ ...standbyStatus, protected: true, usable: true, state: 'replicating' as const }]
  const lines: string[] = []
  const log = createLogger('event', line => void lines.push(line))
  const events = new EventCommand({ command: command(file), clock: mixed, log, status: () => volumes, limitMs })
  t.teardown(() => events.stop())
  const told = (): string[] => (existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [])
  return { clock, volumes, events, lines, file, told }
}

async function becomes(t: Test, what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + 20_000
  while (!condition() && performance.now() < end) await sleep(10)
  t.ok(condition(), what)
}

/** A zombie, whose parent does not ask for it, does not run. */
function runs(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

const event = (name: string): DaemonEvent => ({
  ...{ event: name, volume: 'disk', group: 'pair', role: 'standby', state: 'replicating', reason: '' },
})

test('a change of the status is an event; what it was at the start is none', async t => {
  const { clock, volumes, told } = stage(
    t,
    file => `echo "$UNDERSTUDY_EVENT $UNDERSTUDY_VOLUME $UNDERSTUDY_ROLE" >>${file}`,
  )
  await clock.advance(3000)
  Object.assign(volumes[0] ?? {}, { state: 'detached', protected: false })
  await clock.advance(1000)
  Object.assign(volumes[0] ?? {}, { role: 'master', state: 'alone' })
  await clock.advance(1000)
  await becomes(t, 'all are told', () => told().length === 3)
  t.same(told(), ['detached disk standby', 'unprotected disk standby', 'promoted disk master'], 'in order')
})

test('a drill is told with its machine and its result', async t => {
  const { events, told } = stage(t, file => `cat >>${file}`)
  const result = {
    ...{ startedAt: '2026-11-29T00:00:00.000Z', passed: false, reason: 'no marker in 60 s', seconds: 60 },
    ...{ position: null, at: '', console: ['Kernel panic'] },
  }
  events.tell(drillEvent({ name: 'web', group: 'pair' }, result))
  await becomes(t, 'it is told', () => told().length === 1)
  t.match(JSON.parse(told()[0] ?? ''), {
    event: 'drill-failed',
    group: 'pair',
    machine: 'web',
    drill: { console: ['Kernel panic'] },
  })
})

test('the event is JSON on stdin too, and a name cannot be a command', async t => {
  const { events, told } = stage(t, file => `cat >>${file}`)
  events.tell({ ...event('drill-failed'), reason: '"; touch /tmp/x; $(id)', details: { machine: 'web' } })
  await becomes(t, 'it is told', () => told().length === 1)
  t.match(JSON.parse(told()[0] ?? ''), {
    event: 'drill-failed',
    machine: 'web',
    reason: '"; touch /tmp/x; $(id)',
    time: /^20/,
  })
})

test('a command that hangs is killed with what it has started, and the next one runs', async t => {
  const { events, told, lines, file } = stage(
    t,
    file =>
      `echo "$UNDERSTUDY_EVENT" >>${file}; test "$UNDERSTUDY_EVENT" = second || { sleep 300 & echo $! >${file}.child; sleep 300; }`,
    300,
  )
  events.tell(event('first'))
  events.tell(event('second'))
  await becomes(t, 'both', () => told().length === 2)
  const child = readFileSync(`${file}.child`, 'utf8').trim()
  await becomes(t, 'what it has started is gone', () => !runs(Number(child)))
  t.match(lines.join(), /first of disk: killed, it took longer than 0.3 s/)
})

test('a command that leaves something running does not hold up the next one', async t => {
  const { events, told } = stage(t, file => `sleep 20 & echo $! >>${file}`)
  events.tell(event('first'))
  events.tell(event('second'))
  await becomes(t, 'both', () => told().length === 2)
  for (const pid of told()) process.kill(Number(pid))
})

test('a command that fails is a line in the log, with what it said', async t => {
  const { events, lines } = stage(t, () => 'echo no way >&2; exit 7')
  events.tell(event('detached'))
  await becomes(t, 'a line', () => /detached of disk: it ended with exit code 7: no way/.test(lines.join()))
})

test('events that come faster than they are told are bounded, and it is said', async t => {
  const { events, lines, told } = stage(t, file => `echo x >>${file}`)
  for (let count = 0; count < 200; count++) events.tell(event('detached'))
  await becomes(t, 'those that waited', () => told().length === 65)
  t.match(lines.join(), /64 events wait/)
  await becomes(t, 'how many were not told', () => /135 events were not told/.test(lines.join()))
})

test('stop() kills what runs', async t => {
  const { events, told, lines } = stage(t, file => `echo $$ >>${file}; sleep 300`)
  events.tell(event('detached'))
  await becomes(t, 'it runs', () => told().length === 1)
  events.stop()
  await becomes(t, 'it is gone', () => !runs(Number(told()[0])))
  t.same(lines, [])
})
