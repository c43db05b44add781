/**
 * The phases of a takeover with two sides that only take notes: whichever step fails or is slow, exactly one daemon
 * answers the clients afterwards, and they wait no longer than they may. The real thing is in test/e2e/takeover*.test.ts.
 */
import t from 'tap'

import { createLogger } from '../../../src/core/log.js'
import { DeviceFlushes } from '../../../src/daemon/device-flushes.js'
import type { Estate } from '../../../src/daemon/estate.js'
import {
  betweenPausesMs,
  handOver,
  type HandOverOutcome,
  type Incumbent,
  pauseAttempts,
  type Successor,
} from '../../../src/daemon/hand-over.js'
import { FakeClock } from '../transport/fakes.js'

const estate: Estate = {
  ...{ lock: 7, doors: undefined, listeners: [], clients: [], standbyPort: undefined },
  ...{ leases: new Map<string, bigint>(), handed: [] },
}
const broken = (): Promise<never> => Promise.reject(new Error('broken'))
const maxStallMs = 400
const pauseMs = maxStallMs / 2

interface Stage {
  notes: string[]
  log: string[]
  told: string[]
  stalls: number[]
  clock: FakeClock
  run(): Promise<HandOverOutcome>
}

interface Parts {
  incumbent?: Partial<Incumbent>
  successor?: Partial<Successor>
}

function stage(changed: Parts | ((clock: FakeClock, notes: string[]) => Parts) = {}): Stage {
  const notes: string[] = []
  const [log, told, stalls]: [string[], string[], number[]] = [[], [], []]
  const clock = new FakeClock()
  const parts = typeof changed === 'function' ? changed(clock, notes) : changed
  const note = (what: string) => (): Promise<void> => {
    notes.push(what)
    return Promise.resolve()
  }
  const incumbent: Incumbent = {
    hasClients: true,
    prepare: note('prepare'),
    settle: note('settle'),
    pause: async limitMs => void notes.push(`pause ${limitMs}`),
    resume: () => void notes.push('resume'),
    release: async () => {
      notes.push('release')
      return estate
    },
    reopen: async given => void notes.push(given === estate ? 'reopen' : 'reopen something else'),
    ...parts.incumbent,
  }
  const successor: Successor = {
    offer: async (given, readyMs) => void notes.push(given === estate ? `offer ${readyMs}` : 'offer something else'),
    ready: async limitMs => void notes.push(`ready ${limitMs}`),
    yours: note('yours'),
    kept: async why => {
      notes.push('kept')
      told.push(why)
    },
    end: note('end'),
    ...parts.successor,
  }
  const stalled = (ms: number): void => void stalls.push(ms)
  const options = {
    ...{ incumbent, successor, maxStallMs, clock, stalled },
    log: createLogger('test', line => log.push(line)),
  }
  return { notes, log, told, stalls, clock, run: () => handOver(options) }
}

const once = ['prepare', 'settle', `pause ${pauseMs}`]
const untilReleased = [...once, 'release']
const offered = ['offer 160', 'ready 240']

t.test('everything is handed over before the successor may serve, and nothing is done here afterwards', async t => {
  const { notes, log, run, stalls } = stage()
  t.equal(await run(), 'gone')
  t.same(notes, [...untilReleased, ...offered, 'yours'])
  t.match(log.join('\n'), /handed over; clients waited 0 ms/)
  t.same(stalls, [0])
})

t.test(
  'a failure before anything is released: clients go on where they were, and the successor is told why',
  async t => {
    const steps: [keyof Incumbent, string[]][] = [
      ['prepare', []],
      ['settle', ['prepare']],
      ['pause', ['prepare', 'settle']],
      ['release', once],
    ]
    for (const [step, before] of steps) {
      const { notes, told, run } = stage({ incumbent: { [step]: broken } })
      t.equal(await run(), 'kept', step)
      t.same(notes, [...before, 'resume', 'kept'], step)
      t.same(told, ['broken'], step)
    }
  },
)

t.test('a failure of the successor: it is ended before anything is opened here again', async t => {
  const steps: [keyof Successor, string[]][] = [
    ['offer', []],
    ['ready', offered.slice(0, 1)],
    ['yours', offered],
  ]
  for (const [step, before] of steps) {
    const { notes, log, told, run } = stage({ successor: { [step]: broken } })
    t.equal(await run(), 'kept', step)
    t.same(notes, [...untilReleased, ...before, 'end', 'reopen', 'kept'], step)
    t.match(log.join('\n'), /the successor does not serve: broken.*; this daemon takes everything back/, step)
    t.match(told, [/^broken .*clients waited 0 ms and may wait 400: .*--max-stall 2s$/])
  }
})

t.test('what cannot be opened again is no success: the process is to end', async t => {
  const { log, run } = stage({ successor: { ready: broken }, incumbent: { reopen: broken } })
  t.equal(await run(), 'lost')
  t.match(log.at(-1), /error.*cannot be opened again: broken/)
})

/** Pauses that are late so many times. */
const late = (times: number): Stage =>
  stage((clock, notes) => {
    let pauses = 0
    return {
      incumbent: {
        pause: async limitMs => {
          notes.push(`pause ${limitMs}`)
          if (++pauses > times) return undefined
          clock.now += limitMs
          return 'flushing /dev/slow'
        },
      },
    }
  })

t.test('what takes half of the time is undone: clients go on for a moment, and it is tried again', async t => {
  const { notes, clock, run, stalls } = late(2)
  const outcome = run()
  await clock.advance(2 * betweenPausesMs + 2 * pauseMs)
  t.equal(await outcome, 'gone')
  t.same(notes.slice(0, 12), [...once, 'resume', ...once, 'resume', ...untilReleased])
  t.same(stalls, [pauseMs, pauseMs, 0], 'each is one stall')
})

t.test(
  'what is never done in time is refused, with what was slow, how long clients waited, and what to do',
  async t => {
    const { notes, told, clock, run } = late(Infinity)
    const outcome = run()
    await clock.advance(pauseAttempts * (betweenPausesMs + pauseMs))
    t.equal(await outcome, 'kept')
    t.equal(notes.filter(note => note === `pause ${pauseMs}`).length, pauseAttempts)
    t.same(notes.slice(-3), ['resume', 'resume', 'kept'], 'resumed after the last, whatever was tried')
    t.notOk(notes.includes('release'))
    t.match(told, [
      `takeover: given up: flushing /dev/slow takes longer than 200 ms, half of the 400 ms that clients may wait (${pauseAttempts} attempts, they waited for 200 ms at most); try again later, or let them wait longer: --max-stall 2s`,
    ])
  },
)

t.test('the successor gets less than half of what is left, so that the way back has as much', async t => {
  const { notes, log, stalls, run } = stage((clock, notes) => ({
    incumbent: {
      release: async () => {
        notes.push('release')
        clock.now += 100
        return estate
      },
      reopen: async () => {
        notes.push('reopen')
        clock.now += 120
      },
    },
    successor: {
      ready: async limitMs => {
        notes.push(`ready ${limitMs}`)
        clock.now += limitMs
        throw new Error('late')
      },
    },
  }))
  t.equal(await run(), 'kept')
  t.same(notes, [...untilReleased, 'offer 120', 'ready 180', 'end', 'reopen', 'kept'])
  t.same(stalls, [400])
  t.notMatch(log.join('\n'), /longer than the/)
})

t.test('a stall that was longer than allowed is said', async t => {
  const { log, run } = stage(clock => ({
    incumbent: {
      release: async () => {
        clock.now += 1_000
        return estate
      },
    },
  }))
  t.equal(await run(), 'gone')
  t.match(log.join('\n'), /warn.*clients waited 1000 ms, which is longer than the 400 ms allowed/)
})

t.test('where nobody waits there is time, and no stall', async t => {
  const { notes, stalls, run } = stage({ incumbent: { hasClients: false } })
  t.equal(await run(), 'gone')
  t.same(notes, ['prepare', 'settle', 'pause 5000', 'release', 'offer 4000', 'ready 6000', 'yours'])
  t.same(stalls, [])
})

t.test(
  'a device is flushed once at a time, after what was written before the call, and a slow one has a name',
  async t => {
    const clock = new FakeClock()
    const ends: (() => void)[] = []
    const begun: string[] = []
    const flushes = new DeviceFlushes(device => {
      begun.push(device)
      return device === 'fast' ? Promise.resolve() : new Promise(resolve => ends.push(resolve))
    }, clock)
    const first = flushes.all(['fast', 'slow', 'slow'])
    const second = flushes.all(['slow'])
    await clock.advance(70)
    t.same(begun, ['fast', 'slow'])
    t.same(flushes.pending, ['slow'])
    ends.shift()?.()
    await first
    t.same(flushes.slowest, { device: 'slow', ms: 70 })
    await clock.advance(5)
    t.same(begun, ['fast', 'slow', 'slow'], 'what came later is flushed later')
    ends.shift()?.()
    await second
    t.same(flushes.pending, [])
  },
)
