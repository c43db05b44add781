/** understudy find, mark and export --at against a daemon that only answers. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { OperationError, UnderstudyError } from '../../../src/core/errors.js'
import { createLogger } from '../../../src/core/log.js'
import { MAIN } from '../../../src/core/root.js'
import { ControlServer, type Routes } from '../../../src/daemon/control-server.js'
import { becomes } from '../../support/daemon.js'

async function answering(t: Test, routes: Routes): Promise<string> {
  const state = mkdtempSync(join(tmpdir(), 'find-'))
  const server = await ControlServer.open(
    join(state, 'control.sock'),
    routes,
    createLogger('test', () => undefined),
  )
  t.teardown(async () => {
    await server.close()
    rmSync(state, { recursive: true })
  })
  return state
}

async function understudy(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const outcome = { code: null as number | null, stdout: '', stderr: '' }
  child.stdout.on('data', data => (outcome.stdout += String(data)))
  child.stderr.on('data', data => (outcome.stderr += String(data)))
  const [code] = (await once(child, 'close')) as [number | null]
  return { ...outcome, code }
}

const point = (sequence: number, kind: string, label = ''): object => ({
  ...{ kind, label, incarnation: '17', sequence: String(sequence) },
  time: `2026-11-29T08:00:0${sequence}.123456789Z`,
})
const points = [
  point(1, 'mark', 'one'),
  point(2, 'flush'),
  point(3, 'clean-stop', 'clean-stop'),
  point(4, 'mark', 'four'),
]

t.test('points are tried from the newest back, each served for the time of its check alone', async t => {
  const asked: unknown[] = []
  let served = 0
  const state = await answering(t, {
    'POST /history': fields => ({ document: { points: fields.text('by') === 'find' ? points : [] } }),
    'POST /export': fields => {
      t.equal(fields.text('by'), 'find', 'as what it refuses begins')
      const at = fields.text('at')
      asked.push(at)
      // It has expired between the list and the question.
      if (at === '17:4') throw new OperationError('NO_MOMENT', 'there is no moment 17:4')
      return {
        stream: async (report, signal) => {
          served++
          report({ uri: `nbd:${fields.string('listen')}`, position: { incarnation: '17', sequence: '3' } })
          await new Promise(resolve => signal.addEventListener('abort', resolve, { once: true }))
          served--
        },
      }
    },
  })
  const found = await understudy(
    ...['find', 'disk', '--newest', '--state', state, '--points', 'mark', '--points', 'clean-stop'],
    ...['--check', 'echo "$UNDERSTUDY_URI $UNDERSTUDY_KIND $UNDERSTUDY_TIME"; test "$UNDERSTUDY_LABEL" = one'],
  )
  t.same(asked, ['17:4', '17:3', '17:1'])
  while (served > 0) await new Promise(resolve => setTimeout(resolve, 10)) // The daemon hears of the end a moment later.
  t.match(found, { code: 0, stdout: "disk 17:1 2026-11-29 08:00:01.123Z mark 'one'\n" })
  const [expired, uri, failed] = found.stderr.split('\n')
  t.equal(expired, "disk 17:4 2026-11-29 08:00:04.123Z mark 'four': there is no moment 17:4")
  t.match(uri, /^nbd:unix:\/.*\/understudy-find-.*\.sock clean-stop 2026-11-29T08:00:03.123456789Z$/)
  t.equal(failed, 'disk 17:3 2026-11-29 08:00:03.123Z clean-stop: exit code 1')

  t.match(await understudy('find', 'disk', '--state', state, '--check', 'kill -9 $$'), {
    code: 1,
    stderr:
      /flush: ended by SIGKILL\n.*\nunderstudy: find disk: the check does not pass on any of 4 points \([^\n]*\)\n$/,
  })
})

// Its check and its folder stayed behind.
t.test('a find that is killed leaves neither its check nor its folder', async t => {
  const state = await answering(t, {
    'POST /history': () => ({ document: { points } }),
    'POST /export': fields => ({
      stream: async (report, signal) => {
        report({ uri: fields.string('listen'), position: { incarnation: '17', sequence: '3' } })
        await new Promise(resolve => signal.addEventListener('abort', resolve, { once: true }))
      },
    }),
  })
  const check = 'sleep 1000 & echo "$! $$ $UNDERSTUDY_SOCKET" >&2; sleep 1000; true'
  const child = spawn(process.execPath, [MAIN, 'find', 'disk', '--state', state, '--check', check])
  t.teardown(() => child.kill('SIGKILL'))
  const [said] = (await once(child.stderr, 'data')) as [Buffer]
  const [, background = '', shell = '', folder = ''] = /^(\d+) (\d+) (.*)\/\d+\.sock\n$/.exec(String(said)) ?? []
  t.same([background, shell].map(isThere), [true, true])
  t.ok(existsSync(folder))
  child.kill('SIGKILL')
  await becomes(t, 'both are gone', () => !isThere(background) && !isThere(shell))
  await becomes(t, 'and so is the folder', () => !existsSync(folder))
})

/** A zombie is not: whoever is to reap it here may be slow. */
function isThere(pid: string): boolean {
  try {
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

// An empty --check passed on the newest point, and in no time at all one passed by chance.
t.test('a check that cannot fail, or only fail, is no check', async t => {
  const state = await answering(t, {})
  const find = (...args: string[]) => understudy('find', 'disk', '--state', state, ...args)
  t.match(await find('--check', ' '), { code: 2, stderr: 'understudy: find: --check is empty\n' })
  t.match(await find('--check', 'true', '--timeout', '0'), { code: 2, stderr: /'0' is no time at all/ })
})

t.test('what is no question of the moment ends it', async t => {
  const state = await answering(t, {
    'POST /history': () => ({ document: { points } }),
    'POST /export': () => {
      throw new UnderstudyError('PROMOTED', 'export disk: it was promoted', { exitCode: 1 })
    },
    'POST /mark': fields => ({ document: point(5, 'mark', fields.string('label')) }),
  })
  t.match(await understudy('find', 'disk', '--state', state, '--check', 'true'), {
    code: 1,
    stderr: 'understudy: export disk: it was promoted\n',
  })
  t.match(await understudy('mark', 'disk', 'before upgrade', '--state', state), {
    code: 0,
    stdout: "disk: 'before upgrade' is 17:5, 2026-11-29 08:00:05.123Z\n",
  })
})

t.test('export --at sends the moment as typed, and says which it is beside the address', async t => {
  const asked: string[] = []
  const state = await answering(t, {
    'POST /export': fields => {
      asked.push(fields.text('at'))
      const time = '2026-11-29T08:00:01.000000000Z'
      return {
        stream: async report => report({ uri: 'nbd:x', position: { incarnation: '17', sequence: '3' }, time }),
      }
    },
  })
  const exported = await understudy(
    ...['export', 'disk', '--state', state, '--detach', '--listen', 'unix:/tmp/x', '--at', '-90s'],
  )
  t.same(exported, { code: 0, stdout: 'nbd:x\n', stderr: 'disk as it was at 17:3, 2026-11-29 08:00:01.000Z\n' })
  t.same(asked, ['-90s'])
})
