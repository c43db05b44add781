import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { SafetyRefusal, UnderstudyError } from '../../../src/core/errors.js'
import { createLogger } from '../../../src/core/log.js'
import type { VolumeStatus } from '../../../src/core/status-types.js'
import { ControlClient } from '../../../src/daemon/control-client.js'
import type { WaitCondition, WaitEvent } from '../../../src/daemon/control-protocol.js'
import { ControlServer, type Routes } from '../../../src/daemon/control-server.js'
import { waitFor } from '../../../src/daemon/wait.js'
import { masterStatus } from '../metrics/fake-source.js'

const silent = createLogger('test', () => undefined)

async function serve(t: Test, routes: Routes): Promise<{ client: ControlClient; path: string }> {
  const state = mkdtempSync(join(tmpdir(), 'control-'))
  const path = join(state, 'control.sock')
  writeFileSync(path, 'left behind by a daemon that was killed')
  const server = await ControlServer.open(path, routes, silent)
  t.teardown(async () => {
    await server.close()
    rmSync(state, { recursive: true })
  })
  return { client: new ControlClient(state), path }
}

/** What comes back for bytes that no client of ours would send. */
function raw(path: string, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    let answer = ''
    socket.on('data', data => (answer += String(data)))
    socket.on('close', () => resolve(answer))
    socket.on('error', reject)
    socket.end(text)
  })
}

t.test('documents and errors arrive as they were, exit code included', async t => {
  const { client, path } = await serve(t, {
    'GET /status': () => ({ document: { volumes: [] } }),
    'POST /promote': fields => {
      throw new SafetyRefusal('UNUSABLE', `promote: volume '${fields.string('volume')}' is unusable`)
    },
    'POST /reload': () => {
      throw new TypeError('a defect')
    },
  })
  t.equal(statSync(path).mode & 0o777, 0o600, 'nobody else may connect')
  t.same(await client.status(), { volumes: [] })
  await t.rejects(client.post('/promote', { volume: 'v' }), {
    code: 'UNUSABLE',
    exitCode: 3,
    message: "promote: volume 'v' is unusable",
  })
  await t.rejects(client.post('/promote', {}), { exitCode: 2, message: /'volume' must be a string/ })
  await t.rejects(client.post('/reload'), { code: 'INTERNAL', exitCode: 1, message: 'a defect' })
  await t.rejects(client.post('/nothing'), { code: 'NO_ROUTE', message: /there is no POST \/nothing/ })
  await t.rejects(client.post('/constructor'), { code: 'NO_ROUTE' })
})

t.test('a stream ends with its caller, and tells errors as its last line', async t => {
  let aborted = 0
  const { client } = await serve(t, {
    'POST /count': () => ({
      stream: async (line, signal) => {
        signal.addEventListener('abort', () => aborted++)
        for (let number = 1; !signal.aborted; number++) {
          line({ number })
          await new Promise(resolve => setTimeout(resolve, 5))
        }
      },
    }),
    'POST /fail': () => ({
      stream: async line => {
        line({ number: 1 })
        throw new UnderstudyError('LATE', 'too late', { exitCode: 3 })
      },
    }),
  })
  for await (const { number } of client.stream<{ number: number }>('/count', {})) if (number === 3) break
  for (let turn = 0; turn < 6000 && aborted === 0; turn++) await new Promise(resolve => setTimeout(resolve, 10))
  t.equal(aborted, 1, 'the handler heard that its caller had gone')
  const controller = new AbortController()
  for await (const { number } of client.stream<{ number: number }>('/count', {}, controller.signal))
    if (number === 2) controller.abort()
  t.pass('an aborted stream just ends')
  const seen: number[] = []
  await t.rejects(
    (async () => {
      for await (const { number } of client.stream<{ number: number }>('/fail', {})) seen.push(number)
    })(),
    { code: 'LATE', exitCode: 3 },
  )
  t.same(seen, [1])
})

t.test('what no client of ours sends is refused and costs little', async t => {
  const { client, path } = await serve(t, { 'POST /echo': fields => ({ document: { text: fields.string('text') } }) })
  const post = (body: string): string =>
    `POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  t.match(await raw(path, post('{')), /400 Bad Request[^]*the body is not JSON/)
  t.match(await raw(path, post('[]')), /400 Bad Request[^]*must be a JSON object/)
  t.match(
    await raw(path, post(JSON.stringify({ text: 'x'.repeat(70_000) }))),
    /400 Bad Request[^]*larger than 65536 bytes/,
  )
  t.match(await raw(path, 'garbage\r\n\r\n'), /400 Bad Request/)
  t.same(await client.post('/echo', { text: 'still there' }), { text: 'still there' })
})

t.test('without a daemon the client says so', async t => {
  const state = mkdtempSync(join(tmpdir(), 'control-'))
  t.teardown(() => rmSync(state, { recursive: true }))
  await t.rejects(new ControlClient(state).status(), {
    code: 'NO_DAEMON',
    exitCode: 1,
    message: /no daemon runs on state directory .*--state/,
  })
})

const volume = (changes: Partial<VolumeStatus>): VolumeStatus => ({ ...masterStatus, name: 'v', ...changes })

/** Waits while the status goes through `course`, one step a poll; the last stays. */
async function waitThrough(
  condition: WaitCondition,
  course: VolumeStatus[],
  timeoutMs: number | null = 5000,
): Promise<WaitEvent[]> {
  const events: WaitEvent[] = []
  let step = 0
  const status = (): VolumeStatus[] => course.slice(Math.min(step++, course.length - 1)).slice(0, 1)
  const signal = new AbortController().signal
  await waitFor(
    { volume: 'v', for: condition, timeoutMs },
    { status, mayAppear: false, signal, report: event => events.push(event) },
  )
  return events
}

t.test('wait ends when the condition holds, and tells meanwhile what is missing', async t => {
  const syncing = volume({
    state: 'initial-sync',
    resync: { doneBytes: 1024, totalBytes: 4096, rate: 1, etaSeconds: null },
    reason: 'first copy',
  })
  const usable = volume({ state: 'replicating', usable: true, written: '7', applied: '6', lagBytes: 512 })
  const drained = { ...usable, applied: '7', lagBytes: 0, protected: true }
  const events = await waitThrough('usable', [syncing, usable])
  t.match(events, [{ done: false, missing: 'it is initial-sync 1 KiB of 4 KiB (first copy)' }, { done: true }])
  t.match(await waitThrough('drained', [usable, drained]), [{ missing: /512 B behind/ }, { done: true }])
  t.match(await waitThrough('drained', [{ ...drained, dirtyBytes: 65536 }, drained]), [
    { missing: /64 KiB dirty/ },
    { done: true },
  ])
  t.match(await waitThrough('protected', [usable, drained]), [{ done: false }, { done: true }])
})

t.test('wait gives up when the time is over, the volume is unknown, or it can never be', async t => {
  await t.rejects(waitThrough('usable', [volume({ state: 'detached', reason: 'the standby is away' })], 50), {
    exitCode: 1,
    message: /volume 'v' is not usable after \d+ ms: it is detached \(the standby is away\)/,
  })
  await t.rejects(waitThrough('protected', [volume({ state: 'alone' })], null), { message: /has no standby/ })
  await t.rejects(waitThrough('protected', []), { code: 'NO_VOLUME' })
})
