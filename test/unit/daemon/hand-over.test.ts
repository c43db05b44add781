/**
 * The phases of a takeover with two sides that only take notes: whichever step fails, exactly one daemon answers the
 * clients afterwards. The real thing is in test/e2e/takeover*.test.ts.
 */
import t, { type Test } from 'tap'

import { createLogger } from '../../../src/core/log.js'
import type { Estate } from '../../../src/daemon/estate.js'
import {
  betweenPausesMs,
  handOver,
  type HandOverOutcome,
  type Incumbent,
  pauseAttempts,
  pauseMs,
  readyMs,
  type Successor,
} from '../../../src/daemon/hand-over.js'
import { FakeClock } from '../transport/fakes.js'

const estate: Estate = {
  lock: 7,
  doors: undefined,
  listeners: [],
  clients: [],
  standbyPort: undefined,
  leases: new Map(),
}
const broken = (): Promise<never> => Promise.reject(new Error('broken'))

interface Stage {
  notes: string[]
  log: string[]
  clock: FakeClock
  run(): Promise<HandOverOutcome>
}

function stage(failing: { incumbent?: Partial<Incumbent>; successor?: Partial<Successor> } = {}): Stage {
  const notes: string[] = []
  const log: string[] = []
  const clock = new FakeClock()
  const note = (what: string) => (): Promise<void> => {
    notes.push(what)
    return Promise.resolve()
  }
  const incumbent: Incumbent = {
    prepare: note('prepare'),
    settle: note('settle'),
    pause: async limitMs => {
      notes.push(`pause ${limitMs}`)
      return true
    },
    resume: () => void notes.push('resume'),
    release: async () => {
      notes.push('release')
      return estate
    },
    reopen: async given => void notes.push(given === estate ? 'reopen' : 'reopen something else'),
    ...failing.incumbent,
  }
  const successor: Successor = {
    offer: async given => void notes.push(given === estate ? 'offer' : 'offer something else'),
    ready: async limitMs => void notes.push(`ready ${limitMs}`),
    yours: note('yours'),
    kept: note('kept'),
    end: note('end'),
    ...failing.successor,
  }
  const options = { incumbent, successor, clock, log: createLogger('test', line => log.push(line)) }
  return { notes, log, clock, run: () => handOver(options) }
}

const untilReleased = ['prepare', 'settle', `pause ${pauseMs}`, 'release']

t.test('everything is handed over before the successor may serve, and nothing is done here afterwards', async t => {
  const { notes, log, run } = stage()
  t.equal(await run(), 'gone')
  t.same(notes, [...untilReleased, 'offer', `ready ${readyMs}`, 'yours'])
  t.match(log.join('\n'), /handed over; clients waited 0 ms/)
})

t.test(
  'a failure before anything is released: clients go on where they were, and the successor is told why',
  async t => {
    const steps: [keyof Incumbent, string[]][] = [
      ['prepare', []],
      ['settle', ['prepare']],
      ['pause', ['prepare', 'settle']],
      ['release', ['prepare', 'settle', `pause ${pauseMs}`]],
    ]
    for (const [step, before] of steps) {
      const told: string[] = []
      const { notes, run } = stage({
        incumbent: { [step]: broken },
        successor: { kept: async why => void told.push(why) },
      })
      t.equal(await run(), 'kept', step)
      t.same(notes, [...before, 'resume'], step)
      t.same(told, ['broken'], step)
    }
  },
)

t.test('a failure of the successor: it is ended before anything is opened here again', async t => {
  const steps: [keyof Successor, string[]][] = [
    ['offer', []],
    ['ready', ['offer']],
    ['yours', ['offer', `ready ${readyMs}`]],
  ]
  for (const [step, before] of steps) {
    const { notes, log, run } = stage({ successor: { [step]: broken } })
    t.equal(await run(), 'kept', step)
    t.same(notes, [...untilReleased, ...before, 'kept', 'end', 'reopen'], step)
    t.match(log.join('\n'), /the successor does not serve: broken; this daemon takes everything back/, step)
  }
})

t.test('what cannot be opened again is no success: the process is to end', async t => {
  const { log, run } = stage({ successor: { ready: broken }, incumbent: { reopen: broken } })
  t.equal(await run(), 'lost')
  t.match(log.at(-1), /error.*cannot be opened again: broken/)
})

/** Pauses that are late so many times. */
function late(t: Test, times: number): { notes: string[]; outcome: Promise<HandOverOutcome>; clock: FakeClock } {
  let pauses = 0
  const whole = stage({
    incumbent: {
      pause: async () => {
        whole.notes.push('pause')
        return ++pauses > times
      },
    },
  })
  t.teardown(() => undefined)
  return { notes: whole.notes, clock: whole.clock, outcome: whole.run() }
}

t.test('requests that are not answered in time: clients go on for a moment, and it is tried again', async t => {
  const { notes, clock, outcome } = late(t, 2)
  await clock.advance(2 * betweenPausesMs)
  t.equal(await outcome, 'gone')
  const once = ['prepare', 'settle', 'pause']
  t.same(notes.slice(0, 12), [...once, 'resume', ...once, 'resume', ...once, 'release'])
})

t.test('requests that are never answered in time: clients go on for good', async t => {
  const { notes, clock, outcome } = late(t, Infinity)
  await clock.advance(pauseAttempts * betweenPausesMs)
  t.equal(await outcome, 'kept')
  t.equal(notes.filter(note => note === 'pause').length, pauseAttempts)
  t.same(notes.slice(-3), ['resume', 'resume', 'kept'], 'resumed after the last, whatever was tried')
  t.notOk(notes.includes('release'))
})
