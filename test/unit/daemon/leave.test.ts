/**
 * The order in which a daemon ends, with a process and an addon that only take notes. The real thing, under load and
 * 25 times each, is in test/e2e.
 */
import t, { type Test } from 'tap'

import { createLogger } from '../../../src/core/log.js'
import { Leaver, type LeaveOptions } from '../../../src/daemon/leave.js'

interface Stage {
  leaver: Leaver
  /** What happened, in order. */
  notes: string[]
  raise(event: string, value?: unknown): void
  /** Resolves with the exit code. */
  ended: Promise<number>
}

function stage(options: Partial<LeaveOptions> = {}): Stage {
  const notes: string[] = []
  const listeners = new Map<string, (value?: unknown) => void>()
  let end: (code: number) => void = () => undefined
  const ended = new Promise<number>(resolve => (end = resolve))
  const leaver = new Leaver({
    addon: {
      // The real one does not return; this one must not throw, as nothing comes after it.
      exit: ((code: number) => {
        notes.push(`exit ${code}`)
        end(code)
      }) as (code: number) => never,
      stop: () => void notes.push('stop'),
    },
    log: createLogger('test', () => undefined),
    drain: async () => void notes.push('drained'),
    drainMs: () => 1000,
    cleanUp: () => void notes.push('cleaned up'),
    reload: () => void notes.push('reload'),
    host: { on: (event, listener) => listeners.set(event, listener) },
    ...options,
  })
  leaver.install()
  return { leaver, notes, ended, raise: (event, value) => listeners.get(event)?.(value) }
}

const forever = (): Promise<void> => new Promise(() => undefined)

async function leaves(t: Test, event: string, value: unknown, code: number): Promise<void> {
  const { notes, raise, ended } = stage()
  raise(event, value)
  t.equal(await ended, code)
  t.same(notes, ['drained', 'cleaned up', `exit ${code}`])
}

t.test('SIGTERM and SIGINT drain, remove the sockets and end with 0', async t => {
  await leaves(t, 'SIGTERM', undefined, 0)
  await leaves(t, 'SIGINT', undefined, 0)
})

t.test('an uncaught exception and an unhandled rejection drain too, and end with 1', async t => {
  await leaves(t, 'uncaughtException', new Error('boom'), 1)
  await leaves(t, 'unhandledRejection', 'boom', 1)
})

t.test('a second signal ends with 130 at once, sockets removed', async t => {
  const { notes, raise, ended } = stage({ drain: forever })
  raise('SIGTERM')
  t.same(notes, [])
  raise('SIGINT')
  t.equal(await ended, 130)
  t.same(notes, ['cleaned up', 'exit 130'])
})

t.test('an exception during the drain does not begin a second one', async t => {
  let drains = 0
  let finish: () => void = () => undefined
  const drain = (): Promise<void> => {
    drains++
    return new Promise(resolve => (finish = resolve))
  }
  const { raise, ended } = stage({ drain })
  raise('SIGTERM')
  raise('uncaughtException', new Error('boom'))
  finish()
  t.equal(await ended, 0)
  t.equal(drains, 1)
})

t.test('a drain that fails ends with 1', async t => {
  const { raise, ended } = stage({ drain: () => Promise.reject(new Error('no')) })
  raise('SIGTERM')
  t.equal(await ended, 1)
})

t.test('a drain that hangs is left behind after its limit', async t => {
  const { raise, ended, notes } = stage({ drain: forever, drainMs: () => -4_950 })
  raise('SIGTERM')
  t.equal(await ended, 1)
  t.same(notes, ['cleaned up', 'exit 1'])
})

t.test('process.exit joins the threads and removes the sockets', async t => {
  const { notes, raise } = stage()
  raise('exit', 7)
  t.same(notes, ['cleaned up', 'stop'])
})

t.test("'exit' that comes from addon.exit changes nothing more", async t => {
  const { notes, raise, ended } = stage()
  raise('SIGTERM')
  await ended
  raise('exit', 0)
  t.same(notes, ['drained', 'cleaned up', 'exit 0'])
})

t.test('SIGHUP reloads and does not leave', async t => {
  const { notes, raise } = stage()
  raise('SIGHUP')
  t.same(notes, ['reload'])
})

t.test('a clean-up that fails does not keep the process', async t => {
  const { raise, ended } = stage({
    cleanUp: () => {
      throw new Error('EROFS')
    },
  })
  raise('SIGTERM')
  t.equal(await ended, 0)
})
