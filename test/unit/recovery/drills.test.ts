/** When drills begin, on a stage that is none: each fails at once, as there is no copy to look at. */
import { mkdirSync } from 'node:fs'

import { test, type Test } from 'tap'

import { OperationError } from '../../../src/core/errors.js'
import type { Found } from '../../../src/recovery/machines.js'
import { Drills } from '../../../src/recovery/drills.js'
import type { Stage } from '../../../src/recovery/stage.js'
import { scratch } from '../../support/daemon.js'
import { FakeClock, rememberingLog } from '../transport/fakes.js'

const hourMs = 3_600_000
const wish = { marker: 'login:', port: 0, timeoutMs: 60_000 }

function open(t: Test) {
  const clock = new FakeClock()
  const { log, lines } = rememberingLog()
  const directory = scratch(t).path('web')
  mkdirSync(directory)
  const found = { machine: { name: 'web', group: 'web' }, copy: { directory } } as Found
  const promoted = new Set<string>()
  const begun: number[] = []
  const copies = {
    isPromoted: (group: string) => promoted.has(group),
    viewGroup: () => {
      begun.push(clock.now)
      return Promise.reject(new OperationError('UNUSABLE', 'there is no copy'))
    },
  }
  const machines = { find: () => found, list: () => [found] }
  const drills = new Drills({ clock, log, machines, copies: () => copies } as unknown as Stage)
  return { drills, clock, lines, begun, promoted }
}

// A drill that a vm start had ended began again while the promotion waited for the lease, and was in its way.
test('no drill of a group begins while it is being promoted', async t => {
  const { drills, clock, begun } = open(t)
  drills.setSchedule('web', { ...wish, everyMs: hourMs })
  const unbar = await drills.bar('web', 'it is being promoted')
  await clock.advance(10_000)
  await t.rejects(drills.run({ ...wish, machine: 'web', at: '' }), {
    ...{ code: 'PROMOTING', exitCode: 3, message: 'vm drill web: group web is being promoted' },
  })
  t.same(begun, [])
  unbar()
  await clock.advance(1_000)
  t.equal(begun.length, 1)
})

test('a repeated drill is due so long after the beginning of the last one, and that is told', async t => {
  const { drills, clock, begun, promoted } = open(t)
  t.equal(drills.next('web'), null)
  drills.setSchedule('web', { ...wish, everyMs: hourMs, at: '-5m' })
  const told = (): string | null | undefined => drills.next('web')?.dueAt
  t.equal(told(), new Date(clock.now).toISOString(), 'the first one at once')
  await clock.advance(1_000)
  const [first = 0] = begun
  t.same(drills.next('web'), { dueAt: new Date(first + hourMs).toISOString(), everySeconds: 3600, at: '-5m' })
  promoted.add('web')
  t.equal(told(), null)
  promoted.clear()
  await clock.advance(hourMs - 2_000)
  t.equal(begun.length, 1, 'not before')
  const due = Date.parse(told() ?? '')
  await clock.advance(3_000)
  t.equal(begun.length, 2)
  t.ok((begun[1] ?? 0) - due < 2_000, 'but then')
  drills.setSchedule('web', undefined)
  t.equal(drills.next('web'), null)
})
