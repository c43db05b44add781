import t from 'tap'
import { countersRead, missingCounters, requestKinds } from '../../../src/metrics/counter-names.js'
import { metricDefinitions } from '../../../src/metrics/definitions.js'
import { errorKinds } from '../../../src/metrics/error-counts.js'
import { createMetricsRegistry } from '../../../src/metrics/registry.js'
import { parseSeries, promtool, seriesValue } from '../../support/prometheus.js'
import { FakeSource, masterStatus, standbyStatus } from './fake-source.js'

const master = { group: 'pair', role: 'master' }
const standby = { group: 'pair', role: 'standby' }

t.test('every metric is there at the first scrape, with 0 where nothing has happened', async t => {
  const text = await createMetricsRegistry(new FakeSource()).scrape()
  const series = parseSeries(text)
  for (const { name, type, labels } of metricDefinitions()) {
    const sample = type === 'histogram' ? `${name}_count` : name
    const found = [...series].filter(([key]) => key === sample || key.startsWith(`${sample}{`))
    t.ok(found.length > 0, `${name} has a series`)
    const lacking = found.filter(([key]) => labels.some(label => !key.includes(`${label}="`)))
    t.same(lacking, [], `${name} has all its labels`)
    if (type !== 'gauge')
      t.ok(
        found.every(([, value]) => value === 0),
        `${name} is 0`,
      )
  }
})

t.test('promtool check metrics has nothing to say, at rest and with figures', async t => {
  const source = new FakeSource()
  const registry = createMetricsRegistry(source)
  t.same(promtool(['check', 'metrics'], await registry.scrape()), { status: 0, output: '' })
  for (const [kind, names] of Object.entries(countersRead()) as ['group', string[]][]) {
    for (const page of [0, 1, 2]) names.forEach((name, index) => (source.page(kind, page)[name] = BigInt(index + 1)))
  }
  source.statuses = [
    {
      ...masterStatus,
      name: 'odd "name"\\ \n of a volume',
      lagSeconds: 0.25,
      resync: { doneBytes: 1, totalBytes: 2, rate: 3, etaSeconds: null },
    },
  ]
  t.same(promtool(['check', 'metrics'], await registry.scrape()), { status: 0, output: '' })
})

t.test(
  'every name begins with understudy_, every counter and nothing else ends in _total, help is one sentence',
  async t => {
    for (const { name, type, help } of metricDefinitions()) {
      t.match(name, /^understudy_[a-z]+(_[a-z]+)*$/)
      t.equal(name.endsWith('_total'), type === 'counter', name)
      t.match(help, /^[A-Z1].*\.$/, name)
    }
  },
)

t.test('devices of this host show whether their users wait, and the guard what it is', async t => {
  const source = new FakeSource()
  const devices = [
    { volume: 'disk', device: '/dev/nbd0', connected: true, reconnects: 3 },
    { volume: 'other', device: '/dev/nbd1', connected: false, reconnects: 0 },
  ]
  source.attached = { devices, guard: 'partial' }
  const text = await createMetricsRegistry(source).scrape()
  const of = { volume: 'disk', device: '/dev/nbd0' }
  t.equal(seriesValue(text, 'understudy_attachment_connected', of), 1)
  t.equal(seriesValue(text, 'understudy_attachment_connected', { device: '/dev/nbd1' }), 0)
  t.equal(seriesValue(text, 'understudy_attachment_reconnects_total', of), 3)
  const guard = ['off', 'partial', 'on'].map(state => seriesValue(text, 'understudy_memory_guard', { state }))
  t.same(guard, [0, 1, 0])
  t.same(promtool(['check', 'metrics'], text), { status: 0, output: '' })
})

t.test('takeovers show how they ended, and how long clients waited in the last one', async t => {
  const source = new FakeSource()
  source.takeovers.ended('given-up')
  source.takeovers.ended('given-up')
  source.takeovers.stallMs = 125
  const text = await createMetricsRegistry(source).scrape()
  t.equal(seriesValue(text, 'understudy_takeovers_total', { outcome: 'given-up' }), 2)
  t.equal(seriesValue(text, 'understudy_takeovers_total', { outcome: 'taken-over' }), 0)
  t.equal(seriesValue(text, 'understudy_takeover_stall_seconds'), 0.125)
})

t.test('1000 writes of 4 KiB move the watermarks by exactly 1000 records and 4,096,000 bytes', async t => {
  const source = new FakeSource()
  const registry = createMetricsRegistry(source)
  await registry.scrape()
  for (const mark of ['written', 'sent', 'received', 'durable', 'committed', 'applied']) {
    for (const page of [source.page('group', 0), source.page('replica', 2)]) {
      page[`${mark}_sequence`] = 1000n
      page[`${mark}_bytes`] = 4_096_000n
    }
  }
  const text = await registry.scrape()
  for (const mark of ['written', 'sent', 'received', 'durable', 'committed', 'applied']) {
    t.equal(seriesValue(text, `understudy_${mark}_records_total`, master), 1000)
    t.equal(seriesValue(text, `understudy_${mark}_bytes_total`, master), 4_096_000)
  }
  t.equal(seriesValue(text, 'understudy_applied_records_total', standby), 1000)
  t.equal(seriesValue(text, 'understudy_applied_bytes_total', standby), 4_096_000)
  t.equal(
    seriesValue(text, 'understudy_written_bytes_total', standby),
    undefined,
    'a standby does not claim to know what is written',
  )
})

t.test('counters show the absolute value, however often they are scraped', async t => {
  const source = new FakeSource()
  const registry = createMetricsRegistry(source)
  const requests = () =>
    registry.scrape().then(text => seriesValue(text, 'understudy_requests_total', { volume: 'disk', kind: 'write' }))
  source.page('volume', 1)['requests_write'] = 5n
  t.same(await Promise.all([requests(), requests()]), [5, 5])
  source.page('volume', 1)['requests_write'] = 7n
  t.same([await requests(), await requests()], [7, 7])
})

t.test('one scrape reads every page once', async t => {
  const source = new FakeSource()
  await createMetricsRegistry(source).scrape()
  t.equal(source.reads, 3)
})

t.test('a latency histogram is cumulative, in seconds, and agrees with its count and sum', async t => {
  const source = new FakeSource()
  const page = source.page('volume', 1)
  page['latency_read_0'] = 1n // below 512 ns
  page['latency_read_3'] = 10n // 2048..4095 ns
  page['latency_read_31'] = 100n // above 2^39 ns
  page['latency_sum_ns_read'] = 1_500_000_000n
  const text = await createMetricsRegistry(source).scrape()
  const prefix = 'understudy_request_duration_seconds'
  const buckets = [...parseSeries(text)].filter(
    ([name]) => name.startsWith(`${prefix}_bucket{`) && name.includes('kind="read"'),
  )
  const bounds = buckets.map(([name]) => /[{,]le="([^"]+)"/.exec(name)?.[1] ?? '')
  t.same(
    bounds.slice(0, 31).map(Number),
    Array.from({ length: 31 }, (_, bucket) => 2 ** (bucket + 9) / 1e9),
  )
  t.equal(bounds[31], '+Inf')
  t.same(
    buckets.map(([, count]) => count),
    Array.from({ length: 32 }, (_, bucket) => (bucket < 3 ? 1 : bucket < 31 ? 11 : 111)),
  )
  t.equal(seriesValue(text, `${prefix}_count`, { kind: 'read' }), 111)
  t.equal(seriesValue(text, `${prefix}_sum`, { kind: 'read' }), 1.5)
  t.equal(seriesValue(text, `${prefix}_count`, { kind: 'write' }), 0)
})

t.test('what status shows is there in the same words', async t => {
  const source = new FakeSource()
  const time = '2026-01-31T12:34:56.500Z'
  source.statuses = [
    {
      ...masterStatus,
      state: 'resyncing',
      protected: true,
      usable: true,
      lagSeconds: 1.5,
      lagBytes: 10,
      dirtyBytes: 20,
      sizeBytes: 30,
      logBytes: 40,
      logMaxBytes: 50,
      resync: { doneBytes: 60, totalBytes: 70, rate: 80, etaSeconds: 90 },
      lastVerify: { time, chunks: 100, different: 2, repaired: 1, unreadableBytes: 65536 },
    },
  ]
  const text = await createMetricsRegistry(source).scrape()
  const expected: Record<string, number> = {
    protected: 1,
    usable: 1,
    lag_seconds: 1.5,
    lag_bytes: 10,
    dirty_bytes: 20,
    size_bytes: 30,
    log_bytes: 40,
    log_max_bytes: 50,
    resync_done_bytes: 60,
    resync_total_bytes: 70,
    resync_rate_bytes: 80,
    resync_eta_seconds: 90,
    last_verify_timestamp_seconds: Date.parse(time) / 1000,
    last_verify_chunks: 100,
    last_verify_different_chunks: 2,
    last_verify_repaired_chunks: 1,
    last_verify_unreadable_bytes: 65536,
    state_since_timestamp_seconds: Date.parse(masterStatus.since) / 1000,
  }
  for (const [name, value] of Object.entries(expected))
    t.equal(seriesValue(text, `understudy_${name}`, master), value, name)
  t.equal(seriesValue(text, 'understudy_state', { ...master, state: 'resyncing' }), 1)
  t.equal(seriesValue(text, 'understudy_state', { ...master, state: 'replicating' }), 0)
  t.equal(seriesValue(text, 'understudy_volume_info', { durability: 'flush', generation: masterStatus.generation }), 1)
  t.equal(seriesValue(text, 'understudy_build_info', { version: '1.2.3' }), 1)
  t.equal(seriesValue(text, 'understudy_peer_session', { session: 'connecting' }), 1)
})

t.test("a master's changing port makes no new series on the standby", async t => {
  const text = await createMetricsRegistry(new FakeSource()).scrape()
  t.equal(seriesValue(text, 'understudy_peer_session', { ...standby, address: '192.0.2.1', session: 'connected' }), 1)
  t.equal(seriesValue(text, 'understudy_link_rtt_seconds', standby), 0.002)
})

t.test('volumes of one group share its log and watermarks: one series a group', async t => {
  const source = new FakeSource()
  source.statuses = [
    { ...masterStatus, name: 'one', logBytes: 7 },
    { ...masterStatus, name: 'two', logBytes: 7 },
    { ...standbyStatus, name: 'one' },
  ]
  const text = await createMetricsRegistry(source).scrape()
  t.equal(seriesValue(text, 'understudy_log_bytes', master), 7)
  t.equal(seriesValue(text, 'understudy_protected', { ...master, volume: 'two' }), 0)
})

t.test('several exports of one volume are added up; no series is there twice', async t => {
  const source = new FakeSource()
  source.exports = [3, 4].map(page => ({ volume: 'disk', group: 'pair', role: 'standby' as const, page }))
  source.page('volume', 3)['requests_read'] = 2n
  source.page('volume', 4)['requests_read'] = 3n
  const text = await createMetricsRegistry(source).scrape()
  t.equal(seriesValue(text, 'understudy_requests_total', { ...standby, kind: 'read' }), 5)
})

t.test('every kind of request and of error has its own series', async t => {
  const text = await createMetricsRegistry(new FakeSource()).scrape()
  for (const kind of requestKinds) {
    for (const name of ['requests', 'request_bytes', 'request_errors'])
      t.equal(seriesValue(text, `understudy_${name}_total`, { kind }), 0)
  }
  for (const kind of errorKinds) t.equal(seriesValue(text, 'understudy_errors_total', { kind }), 0)
})

t.test('errors that the addon tells of are counted by kind; a session that was ended on purpose is none', async t => {
  const source = new FakeSource()
  const session = { type: 'session-closed', session: 1n, endpoint: 0, outgoing: true, text: '' } as const
  source.errors.observe({ ...session, reason: 'timeout' })
  source.errors.observe({ ...session, reason: 'timeout' })
  source.errors.observe({ ...session, reason: 'local' })
  source.errors.observe({ type: 'disconnected', connection: 1, volume: 0, reason: '' })
  source.errors.observe({ type: 'disconnected', connection: 1, volume: 0, reason: 'bad magic' })
  const text = await createMetricsRegistry(source).scrape()
  const counts = errorKinds.map(kind => seriesValue(text, 'understudy_errors_total', { kind }))
  t.same(Object.fromEntries(errorKinds.map((kind, index) => [kind, counts[index]])), {
    connection: 1,
    device: 0,
    replica: 0,
    session_peer_not_allowed: 0,
    session_protocol: 0,
    session_refused_by_peer: 0,
    session_timeout: 2,
  })
})

t.test('a source that throws makes the scrape fail, and the next one works', async t => {
  const source = new FakeSource()
  const registry = createMetricsRegistry(source)
  const volumes = source.volumes
  source.volumes = () => {
    throw new Error('no status')
  }
  await t.rejects(registry.scrape(), { message: 'no status' })
  source.volumes = volumes
  t.ok((await registry.scrape()).length > 0)
})

t.test('a counter that the addon lacks is named', async t => {
  const layout = Object.fromEntries(
    Object.entries(countersRead()).map(([kind, names]) => [kind, Object.fromEntries(names.map(name => [name, 0]))]),
  )
  t.same(missingCounters(layout), [])
  delete layout['group']?.['voids']
  t.same(missingCounters(layout), ['group.voids'])
})
