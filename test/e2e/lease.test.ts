// timeout: 120
/**
 * --lease: a master that its standby does not answer answers nobody, and the standby is not promoted before that is so.
 */
import t, { type Test } from 'tap'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { PromoteReply } from '../../src/daemon/control-protocol.js'
import { freeze, inSync, metricBecomes, type Pair, sleep, startPair } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'
import { Partition } from '../support/partition.js'
import { Prober, startSuccession, takeOver } from '../support/takeover.js'

t.jobs = 4

const data = Buffer.alloc(4096, 7)
const area = { offset: 0, blocks: 64 }
const leaseMs = 2000

const waits = (pair: Pair, why: RegExp): Promise<unknown> =>
  pair.master.until(pair.volume, 'clients wait', ({ reason }) => why.test(reason))

/** On the standby, where it waits for the master's lease, of which the master has heard nothing since then. */
async function promote(t: Test, pair: Pair, socket: string, since: number): Promise<void> {
  const request = { volume: pair.volume, acceptLoss: true, force: false, listen: `unix:${socket}` }
  const { messages } = await new ControlClient(pair.standby.state).post<PromoteReply>('/promote', request)
  const waited = messages.some(message => /lease of the master is over/.test(message))
  t.ok(waited || performance.now() - since > leaseMs, 'it waited, unless the lease was over already')
}

/** Requests that wait now, and what they were answered with at last. */
async function unanswered(
  t: Test,
  title: string,
  requests: Promise<{ error: number }>[],
): Promise<() => Promise<void>> {
  let answered = 0
  for (const request of requests)
    request.then(
      () => answered++,
      () => undefined, // nobody has waited that long for it
    )
  await sleep(300)
  t.equal(answered, 0, title)
  return async () => {
    for (const reply of await Promise.all(requests)) t.equal(reply.error, 0, 'then it is answered without an error')
  }
}

t.test(
  'clients wait while the standby does not answer, from the first start on, and go on without an error',
  async t => {
    const pair = await startPair(t, { master: ['--lease', '2s'], idle: true })
    await pair.master.start()
    const early = await NbdClient.attach({ path: pair.socket }, pair.volume)
    const first = await unanswered(t, 'nothing is answered before there was a lease', [
      early.write(0, data),
      early.read(0, 512),
    ])
    await waits(pair, /^clients wait: there is no lease yet/)
    const force = ['promote', pair.volume, '--force']
    t.match(await pair.master.command(force), { code: 0, stdout: /goes on without a lease until a standby is there/ })
    await first()
    await pair.standby.start()
    await inSync(pair)
    await pair.master.until(pair.volume, 'has a lease', ({ lease }) => (lease?.secondsLeft ?? 0) > 0)
    await pair.standby.until(pair.volume, 'knows it', ({ lease }) => lease?.seconds === 2 && lease.inForce)
    t.match(await pair.master.command(force), { code: 3, stderr: /its standby is there/ })
    for (const daemon of [pair.master, pair.standby])
      t.match(await daemon.command(['pause', pair.volume]), { code: 3, stderr: /its clients would wait/ })

    await freeze(pair.standby)
    await waits(pair, /^clients wait: the lease has run out/)
    await metricBecomes(t, pair.metrics.master, 'understudy_lease_seconds_left', 0)
    t.equal((await pair.master.volume(pair.volume)).protected, false)
    const late = await NbdClient.attach({ path: pair.socket }, pair.volume)
    const requests = [early.write(0, data), early.read(0, 512), early.flush(), late.read(0, 512)]
    const second = await unanswered(t, 'when it has run out a write, a read, a flush and a new client wait', requests)
    pair.standby.program.signal('SIGCONT')
    await second()
    await inSync(pair)
    await metricBecomes(t, pair.metrics.master, 'understudy_lease_stalls_total', stalls => stalls >= 1)
    await Promise.all([early.disconnect(), late.disconnect()])

    t.match(
      await pair.master.command(['switchover', pair.volume]),
      { code: 0 },
      'a planned change of roles waits for nothing',
    )
    await pair.standby.until(
      pair.volume,
      'reigns, with the lease that came with the copy',
      ({ role, state, lease }) =>
        role === 'master' && state === 'replicating' && lease?.inForce === true && lease.secondsLeft > 0,
    )
    t.match(await pair.standby.command(['switchover', pair.volume]), { code: 0 })
    await inSync(pair)
  },
)

t.test('the old master answers nobody from before its standby is promoted on, also when it finds out', async t => {
  let network: Partition | undefined
  const pair = await startPair(t, {
    master: ['--lease', '2s', '--peer-timeout', '1s', '--durability', 'async'], // no flush waits for something else
    relay: async port => (network = await Partition.open(port)).port,
  })
  t.teardown(() => network?.close())
  const old = await Prober.start(pair.socket, pair.volume, area)
  await old.answered(50)
  const cut = performance.now()
  network?.cut(true)
  const socket = pair.scratch.path('second.sock')
  await promote(t, pair, socket, cut)
  for (let turn = 0; turn < 2; turn++) await sleep(100) // what was answered before has come by now, and been read
  const answered = old.requests
  const young = await Prober.start(socket, pair.volume, area)
  await young.answered(50)
  await sleep(300)
  t.equal(old.requests, answered, 'not one request was answered by both')

  network?.cut(false)
  await pair.master.until(pair.volume, 'has found out', ({ state }) => state === 'diverged')
  await young.answered(50)
  const forced = await pair.master.command(['promote', pair.volume, '--force'])
  t.match(forced, { code: 3, stderr: /was promoted on the standby.*resolve/ })
  t.equal(old.requests, answered, 'nor when they met again')
  await young.stop()
  t.equal(young.failure, undefined)
  await pair.master.kill()
})

t.test('a master that stood still while its standby was promoted answers nobody when it goes on', async t => {
  const pair = await startPair(t, { master: ['--lease', '2s', '--on-standby-loss', 'block'] })
  const old = await NbdClient.attach({ path: pair.socket }, pair.volume)
  t.equal((await old.write(0, data)).error, 0)
  t.equal((await old.flush()).error, 0) // from here on the standby has it
  const frozen = performance.now()
  await freeze(pair.master)
  const waiting = [old.write(0, Buffer.alloc(4096, 8)), old.read(0, 512)]
  const socket = pair.scratch.path('second.sock')
  await promote(t, pair, socket, frozen)
  const young = await NbdClient.attach({ path: socket }, pair.volume)
  t.same((await young.read(0, 4096)).data, data, 'the new one has what was flushed before')
  const silent = unanswered(t, 'neither before it hears of the other one, nor after', waiting)
  pair.master.program.signal('SIGCONT')
  await pair.master.until(pair.volume, 'has found out', ({ state }) => state === 'diverged')
  await silent
  await unanswered(t, 'nor later', waiting)
  for (const request of waiting) request.catch(() => undefined)
  await pair.master.kill()
  await young.disconnect()
})

t.test('a takeover hands on what is left of the lease', async t => {
  const pair = await startSuccession(t, { toml: 'lease = "1min"\ndurability = "async"' })
  const client = await Prober.start(pair.socket, pair.volume, area)
  await client.answered(50)
  await freeze(pair.standby)
  t.match(await takeOver(t, pair.master, pair.config), { code: 0 })
  await client.answered(50)
  const { lease } = await pair.master.volume(pair.volume)
  t.ok(lease !== undefined && lease.secondsLeft > 0 && lease.secondsLeft < 60, `${lease?.secondsLeft} s`)
  await client.stop()
  t.equal(client.failure, undefined)
  pair.standby.program.signal('SIGCONT')
})
