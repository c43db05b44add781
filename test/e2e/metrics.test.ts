// timeout: 120
/**
 * /metrics of real daemons: names hold, and the figures are right. What promtool and the tables say of fake pages is in
 * test/unit/metrics.
 */
import t from 'tap'
import { missingCounters, requestKinds, standbyWatermarks, watermarks } from '../../src/metrics/counter-names.js'
import { metricDefinitions } from '../../src/metrics/definitions.js'
import { addon } from '../../src/native/binding.js'
import { command, inSync, sleep, sparseFile, startPair, succeed, type Pair } from '../support/daemon.js'
import { parseSeries, promtool, seriesValue } from '../support/prometheus.js'

const writes = 1000
const writeBytes = 4096
const master = { role: 'master' }
const standby = { role: 'standby' }

async function scrape(port: number): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}/metrics`)
  const text = await response.text()
  if (response.status !== 200) throw new Error(`/metrics: ${response.status}: ${text}`)
  return text
}

/** nbdsh by Debian's Python, which has libnbd whatever else is first in PATH; `h` is connected to the export. */
const nbdsh = (pair: Pair, ...statements: string[]): Promise<string> =>
  succeed('/usr/bin/python3', ['-m', 'nbd', '-u', pair.uri, ...statements.flatMap(statement => ['-c', statement])])

/** How much a series grew between two scrapes. */
const growth = (before: string, after: string, metric: string, labels: Record<string, string>): number =>
  (seriesValue(after, metric, labels) ?? NaN) - (seriesValue(before, metric, labels) ?? NaN)

t.test('the addon has every counter that the metrics read', async t => {
  t.same(missingCounters(addon().counterLayout()), [])
})

t.test('the figures of a pair', { timeout: 100_000 }, async t => {
  const pair = await startPair(t)
  const both = Object.entries(pair.metrics)

  await t.test(
    'promtool check metrics has nothing to say of either daemon, and no metric is missing at the first scrape',
    async t => {
      for (const [role, port] of both) {
        const text = await scrape(port)
        t.same(promtool(['check', 'metrics'], text), { status: 0, output: '' }, role)
        const announced = [...text.matchAll(/^# TYPE (\S+) /gm)].map(match => match[1])
        t.same(
          announced,
          metricDefinitions().map(({ name }) => name),
          role,
        )
        for (const name of [
          'protected',
          'usable',
          'lag_seconds',
          'lag_bytes',
          'dirty_bytes',
          'size_bytes',
          'last_verify_timestamp_seconds',
        ]) {
          t.ok(
            Number.isFinite(seriesValue(text, `understudy_${name}`, { volume: pair.volume, role })),
            `${role}: ${name}`,
          )
        }
      }
      const text = await scrape(pair.metrics.master)
      for (const kind of requestKinds)
        t.equal(seriesValue(text, 'understudy_requests_total', { ...master, kind }), 0, `no ${kind} yet`)
    },
  )

  await t.test('1000 writes of 4 KiB move written and applied by exactly 1000 records and 4,096,000 bytes', async t => {
    const before = await Promise.all(both.map(([, port]) => scrape(port)))
    await nbdsh(pair, `for i in range(${writes}): h.pwrite(bytes([i % 251 + 1]) * ${writeBytes}, i * ${writeBytes})`)
    await inSync(pair)
    const after = await Promise.all(both.map(([, port]) => scrape(port)))
    for (const [index, [role]] of both.entries()) {
      for (const mark of role === 'master' ? watermarks : standbyWatermarks) {
        const grown = (unit: string) =>
          growth(before[index] ?? '', after[index] ?? '', `understudy_${mark}_${unit}_total`, { role })
        t.equal(grown('records'), writes, `${role}: ${mark} records`)
        t.equal(grown('bytes'), writes * writeBytes, `${role}: ${mark} bytes`)
      }
    }
  })

  await t.test('requests, their bytes and their latencies are counted by kind, each exactly once', async t => {
    const before = await scrape(pair.metrics.master)
    await nbdsh(
      pair,
      'for i in range(10): h.pread(8192, i * 8192)',
      'h.flush(); h.flush(); h.flush()',
      'h.zero(4096, 0)',
    )
    const after = await scrape(pair.metrics.master)
    const grown = (metric: string, kind: string) => growth(before, after, `understudy_${metric}`, { ...master, kind })
    t.equal(grown('requests_total', 'read'), 10)
    t.equal(grown('request_bytes_total', 'read'), 10 * 8192)
    t.equal(grown('requests_total', 'flush'), 3)
    t.equal(grown('requests_total', 'zero'), 1)
    t.equal(grown('requests_total', 'write'), 0)
    for (const kind of requestKinds) {
      const count = seriesValue(after, 'understudy_request_duration_seconds_count', { ...master, kind })
      t.equal(count, seriesValue(after, 'understudy_requests_total', { ...master, kind }), `each ${kind} has a latency`)
      t.equal(seriesValue(after, 'understudy_request_errors_total', { ...master, kind }), 0)
    }
    const spent = grown('request_duration_seconds_sum', 'read')
    t.ok(spent > 0 && spent < 10, `ten reads took ${spent} s`)
  })

  await t.test('a request that is answered with an error is counted as one', async t => {
    const before = await scrape(pair.metrics.master)
    const refused =
      'try:\n  h.set_strict_mode(0)\n  h.pread(4096, h.get_size())\nexcept nbd.Error as error:\n  print(error.errnum)'
    t.match(await nbdsh(pair, refused), /\d/)
    const after = await scrape(pair.metrics.master)
    t.equal(growth(before, after, 'understudy_request_errors_total', { ...master, kind: 'read' }), 1)
  })

  await t.test('what status says, metrics say', async t => {
    const status = await inSync(pair)
    const text = await scrape(pair.metrics.master)
    const labels = { volume: pair.volume, ...master }
    t.equal(seriesValue(text, 'understudy_protected', labels), Number(status.protected))
    t.equal(seriesValue(text, 'understudy_usable', labels), 1)
    t.equal(seriesValue(text, 'understudy_state', { ...labels, state: 'replicating' }), 1)
    t.equal(seriesValue(text, 'understudy_size_bytes', labels), status.sizeBytes)
    t.equal(seriesValue(text, 'understudy_log_max_bytes', master), status.logMaxBytes)
    t.equal(seriesValue(text, 'understudy_written_records_total', master), Number(status.written))
    t.equal(seriesValue(text, 'understudy_applied_records_total', master), Number(status.applied))
    t.equal(seriesValue(text, 'understudy_peer_session', { ...master, peer: pair.standbyId, session: 'connected' }), 1)
  })

  await t.test('the link and the standby tell of themselves', async t => {
    const text = await scrape(pair.metrics.master)
    t.equal(seriesValue(text, 'understudy_link_session', master), 1)
    const rtt = seriesValue(text, 'understudy_link_rtt_seconds', master) ?? 0
    t.ok(rtt > 0 && rtt < 5, `round-trip time ${rtt} s`)
    for (const name of [
      'congestion_window_bytes',
      'packet_bytes',
      'packets_sent_total',
      'packets_received_total',
      'bytes_received_total',
    ]) {
      t.ok((seriesValue(text, `understudy_link_${name}`, master) ?? 0) > 0, name)
    }
    t.ok(
      (seriesValue(text, 'understudy_link_bytes_sent_total', master) ?? 0) > writes * writeBytes,
      'what was written went over the link',
    )
    const other = await scrape(pair.metrics.standby)
    t.equal(seriesValue(other, 'understudy_standby_phase', { ...standby, phase: 'cut' }), 1)
    t.ok((seriesValue(other, 'understudy_standby_replayed_records_total', standby) ?? 0) >= writes, 'replayed')
    t.ok((seriesValue(other, 'understudy_standby_fsyncs_total', { ...standby, file: 'segment' }) ?? 0) > 0, 'synced')
    t.equal(seriesValue(other, 'understudy_standby_errors_total', standby), 0)
    const heard = seriesValue(other, 'understudy_standby_last_heard_timestamp_seconds', standby) ?? 0
    t.ok(Math.abs(Date.now() / 1000 - heard) < 60, `last heard ${heard}`)
  })

  await t.test('no counter goes back under load', async t => {
    const load = nbdsh(
      pair,
      `for i in range(${4 * writes}): h.pwrite(bytes([i % 7 + 1]) * ${writeBytes}, i % 64 * ${writeBytes})`,
    )
    let running = true
    const ended = load.finally(() => (running = false))
    let last = parseSeries(await scrape(pair.metrics.master))
    let rounds = 0
    while (running && rounds < 500) {
      const now = parseSeries(await scrape(pair.metrics.master))
      const fallen = [...now].filter(
        ([name, value]) => /_(total|count|sum|bucket)\{/.test(name) && value < (last.get(name) ?? 0),
      )
      if (fallen.length > 0) t.same(fallen, [], 'counters that fell')
      last = now
      rounds++
      await sleep(5)
    }
    await ended
    t.ok(rounds > 3, `${rounds} scrapes under load`)
  })

  await t.test('a standby that comes back counts as a reconnect', async t => {
    await pair.standby.kill()
    await pair.standby.restart()
    // Until the master misses the old session it has nothing to count, and calls itself in sync.
    const reconnects = async () =>
      seriesValue(await scrape(pair.metrics.master), 'understudy_link_reconnects_total', master)
    for (let wait = 0; wait < 200 && (await reconnects()) === 0; wait++) await sleep(100)
    await inSync(pair)
    t.equal(await reconnects(), 1)
    t.same(promtool(['check', 'metrics'], await scrape(pair.metrics.standby)), { status: 0, output: '' })
  })

  await t.test('a metrics port in use: one line that names it, exit code 1', async t => {
    const device = await sparseFile(pair.scratch.path('other.img'), 1 << 20)
    const address = `127.0.0.1:${pair.metrics.master}`
    const args = [
      '--state',
      pair.scratch.path('o'),
      '--device',
      device,
      '--export',
      'other',
      '--listen',
      `unix:${pair.scratch.path('o.sock')}`,
    ]
    const { code, stderr } = await command(['master', ...args, '--metrics', address])
    t.equal(code, 1)
    t.match(stderr, `metrics: listen on ${address}: the address is in use`)
  })
})
