import t from 'tap'

import { Backoff } from '../../../src/core/backoff.js'
import { SessionKeeper } from '../../../src/master/session-keeper.js'
import type { Hello } from '../../../src/transport/messages.js'
import { FakeClock, FakeTransport, rememberingLog } from '../transport/fakes.js'

const hello: Hello = {
  protocol: 1,
  protocolOldest: 1,
  program: '0',
  group: 'g',
  incarnation: 1n,
  generation: '',
  history: [],
  discard: '',
  durability: 'flush',
  leaseMs: 0,
  compress: 'off',
  hostname: 'h',
  volumes: [{ name: 'g', uuid: 'u', sizeBytes: 1n, blockMin: 512, excluded: [], filesLeftOut: false }],
}
const welcome = {
  type: 'welcome',
  protocol: 1,
  program: '0',
  replicaId: 'r',
  incarnation: '0',
  received: '0',
  fresh: true,
  initial: true,
}

function makeKeeper() {
  const clock = new FakeClock()
  const transport = new FakeTransport()
  const { log, lines } = rememberingLog()
  const events: string[] = []
  let failure: Error | undefined
  const keeper = new SessionKeeper({
    transport,
    peer: { id: 'f'.repeat(64), host: '192.0.2.1', port: 7000 },
    own: { id: 'a'.repeat(64) },
    clock,
    random: () => 1,
    log,
    hello: () => hello,
    welcomed: () => {
      if (failure !== undefined) throw failure
      events.push('welcomed')
    },
    lost: () => events.push('lost'),
  })
  keeper.start()
  return { clock, transport, lines, events, keeper, fail: (error: Error) => (failure = error) }
}

t.test('waiting times double from the least to the most, with jitter below', t => {
  const highest = new Backoff(100, 1000, () => 1)
  t.same(
    [1, 2, 3, 4, 5].map(() => highest.next()),
    [100, 200, 400, 800, 1000],
  )
  highest.reset()
  t.equal(highest.next(), 100)
  t.equal(new Backoff(100, 1000, () => 0).next(), 50)
  t.end()
})

t.test('hello, welcome, connected; a session that ends is begun again', async t => {
  const { clock, transport, events, keeper } = makeKeeper()
  t.equal(keeper.state, 'connecting')
  transport.last.establish()
  t.match(transport.last.sent, [{ type: 'hello', group: 'g' }])
  transport.last.receive(welcome)
  t.equal(keeper.state, 'connected')
  transport.last.receive(welcome)
  t.same(events, ['welcomed'], 'a second welcome changes nothing')
  await clock.advance(60_000)
  t.equal(transport.sessions.length, 1)
  transport.last.end('timeout')
  t.same(events, ['welcomed', 'lost'])
  t.match(keeper, { state: 'away', reason: /192.0.2.1:7000 is not heard any more/ })
  await clock.advance(100)
  t.equal(transport.sessions.length, 2, 'at once after a session that lasted')
})

t.test('a standby that does not answer is tried at least every two seconds, and logged once', async t => {
  const { clock, transport, lines, keeper } = makeKeeper()
  for (let attempt = 0; attempt < 20; attempt++) {
    transport.last.end('timeout')
    await clock.advance(2_000)
    t.equal(transport.sessions.length, attempt + 2)
  }
  t.equal(keeper.state, 'away')
  t.equal(lines.length, 1)
})

t.test('a refusal is shown with its words, logged once, and tried again slowly', async t => {
  const { clock, transport, lines, keeper } = makeKeeper()
  for (let attempt = 0; attempt < 3; attempt++) {
    transport.last.establish()
    transport.last.receive({ type: 'refused', code: 'promoted', message: 'it was promoted' })
    t.match(keeper, { state: 'refused', refusal: 'promoted', reason: /refuses: it was promoted/ })
    await clock.advance(4_900)
    t.equal(transport.sessions.length, attempt + 1)
    await clock.advance(200)
    t.equal(transport.sessions.length, attempt + 2)
  }
  t.equal(lines.length, 1)
})

t.test('a wrong key on either side is told apart, with what to do', async t => {
  const { clock, transport, keeper } = makeKeeper()
  transport.last.end('refused-by-peer')
  t.match(keeper.reason, /does not allow this host's id; start it with --allow a{64}/)
  await clock.advance(5_000)
  transport.last.end('peer-not-allowed', 'b'.repeat(64))
  t.match(keeper.reason, /answers another key \(b{64}\) than the one configured \(f{64}\)/)
})

t.test('a standby that says nothing, nonsense or a version we do not speak is left', async t => {
  const { clock, transport, keeper } = makeKeeper()
  transport.last.establish()
  await clock.advance(10_000)
  t.match(keeper.reason, /said nothing for 10 s/)
  await clock.advance(2_000)
  transport.last.establish()
  transport.last.receive({ type: 'welcome', protocol: 'x' })
  t.match(keeper.reason, /'protocol'/)
  t.ok(transport.last.closedWith)
  await clock.advance(2_000)
  transport.last.establish()
  transport.last.receive({ ...welcome, protocol: 9 })
  t.match(keeper.reason, /chose version 9 of the link, this program speaks 1 to 1/)
})

t.test('a message of a kind that is not known is ignored', t => {
  const { transport, keeper } = makeKeeper()
  transport.last.establish()
  transport.last.receive({ type: 'weather' })
  t.equal(transport.last.closedWith, undefined)
  t.equal(keeper.state, 'connecting')
  t.end()
})

t.test('an engine that cannot be attached ends the session with the reason', t => {
  const { transport, keeper, fail } = makeKeeper()
  fail(new Error('no memory for the log'))
  transport.last.establish()
  transport.last.receive(welcome)
  t.match(keeper, { state: 'away', reason: /no memory for the log/ })
  t.match(transport.last.closedWith, /no memory/)
  t.end()
})

t.test('restart() begins a new session; stop() none', async t => {
  const { clock, transport, events, keeper } = makeKeeper()
  transport.last.establish()
  transport.last.receive(welcome)
  keeper.restart('detached')
  t.equal(transport.last.closedWith, 'detached')
  t.same(events, ['welcomed', 'lost'])
  await clock.advance(200)
  t.equal(transport.sessions.length, 2)
  keeper.stop('bye')
  t.equal(transport.last.closedWith, 'bye')
  await clock.advance(60_000)
  t.equal(transport.sessions.length, 2)
})
