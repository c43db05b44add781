// timeout: 120
/**
 * /metrics of real daemons: names hold, and the figures are right. What promtool and the tables say of fake pages is in
 * test/unit/metrics.
 */
import { writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { missingCounters, requestKinds, standbyWatermarks, watermarks } from '../../src/metrics/counter-names.js'
import { metricDefinitions } from '../../src/metrics/definitions.js'
import { addon } from '../../src/native/binding.js'
import { becomes, command, inSync, type Pair, sleep, sparseFile, startPair, succeed } from '../support/daemon.js'
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

/** The first scrape of which this is so, or the last one that was waited for: figures follow what they count. */
async function scrapeWhen(t: Test, what: string, port: number, holds: (text: string) => boolean): Promise<string> {
  let text = ''
  await becomes(t, what, async () => holds((text = await scrape(port))))
  return text
}

t.test('the addon has every counter that the metrics read', async t => {
  t.same(missingCounters(addon().counterLayout()), [])
})

t.test('the figures of a pair', async t => {
  // A session ends when its peer is killed, and not because the machine stood still.
  const pair = await startPair(t, { master: ['--peer-timeout', '60s'] })
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
    for (const [index, [role, port]] of both.entries()) {
      const marks = role === 'master' ? watermarks : standbyWatermarks
      const since = (text: string, mark: string, unit: string) =>
        growth(before[index] ?? '', text, `understudy_${mark}_${unit}_total`, { role })
      const after = await scrapeWhen(t, `${role}: all is counted`, port, text =>
        marks.every(mark => since(text, mark, 'records') >= writes),
      )
      for (const mark of marks) {
        const grown = (unit: string) => since(after, mark, unit)
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
    const requests = (text: string) => growth(before, text, 'understudy_requests_total', { ...master, kind: 'zero' })
    const after = await scrapeWhen(t, 'the last one is counted', pair.metrics.master, text => requests(text) === 1)
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
    t.ok(spent > 0 && spent < 600, `ten reads took ${spent} s`)
  })

  await t.test('a request that is answered with an error is counted as one', async t => {
    const before = await scrape(pair.metrics.master)
    const refused =
      'try:\n  h.set_strict_mode(0)\n  h.pread(4096, h.get_size())\nexcept nbd.Error as error:\n  print(error.errnum)'
    t.match(await nbdsh(pair, refused), /\d/)
    await scrapeWhen(t, 'one error', pair.metrics.master, text => {
      return growth(before, text, 'understudy_request_errors_total', { ...master, kind: 'read' }) === 1
    })
  })

  await t.test('what status says, metrics say', async t => {
    const labels = { volume: pair.volume, ...master }
    // Two looks at what may change between them.
    await becomes(t, 'both say the same', async () => {
      const status = await inSync(pair)
      const text = await scrape(pair.metrics.master)
      const says = (metric: string, more: Record<string, string>) => seriesValue(text, `understudy_${metric}`, more)
      return (
        says('protected', labels) === Number(status.protected) &&
        says('usable', labels) === 1 &&
        says('state', { ...labels, state: 'replicating' }) === 1 &&
        says('size_bytes', labels) === status.sizeBytes &&
        says('log_max_bytes', master) === status.logMaxBytes &&
        says('written_records_total', master) === Number(status.written) &&
        says('applied_records_total', master) === Number(status.applied) &&
        says('peer_session', { ...master, peer: pair.standbyId, session: 'connected' }) === 1
      )
    })
  })

  await t.test('the link and the standby tell of themselves', async t => {
    const link = (text: string, name: string) => seriesValue(text, `understudy_link_${name}`, master) ?? 0
    const positive = ['rtt_seconds', 'congestion_window_bytes', 'packet_bytes', 'packets_sent_total']
    positive.push('packets_received_total', 'bytes_received_total')
    const text = await scrapeWhen(t, 'what was written went over the link', pair.metrics.master, text => {
      return link(text, 'bytes_sent_total') > writes * writeBytes && positive.every(name => link(text, name) > 0)
    })
    t.equal(link(text, 'session'), 1)
    t.ok(link(text, 'rtt_seconds') < 60, `round-trip time ${link(text, 'rtt_seconds')} s`)
    for (const name of positive) t.ok(link(text, name) > 0, name)
    const other = await scrapeWhen(t, 'the standby has replayed and synced', pair.metrics.standby, text => {
      const says = (name: string, labels = {}) =>
        seriesValue(text, `understudy_standby_${name}`, { ...standby, ...labels }) ?? 0
      return (
        says('phase', { phase: 'cut' }) === 1 &&
        says('replayed_records_total') >= writes &&
        says('fsyncs_total', { file: 'segment' }) > 0
      )
    })
    t.equal(seriesValue(other, 'understudy_standby_errors_total', standby), 0)
    const heard = seriesValue(other, 'understudy_standby_last_heard_timestamp_seconds', standby) ?? 0
    t.ok(Math.abs(Date.now() / 1000 - heard) < 60, `last heard ${heard}`)
  })

  await t.test('no counter goes back under load', async t => {
    // For as long as it is looked at, and at least so many writes.
    const looked = pair.scratch.path('looked')
    const load = nbdsh(
      pair,
      'import os',
      `i = 0\nwhile i < ${4 * writes} or not os.path.exists("${looked}"):\n  h.pwrite(bytes([i % 7 + 1]) * ${writeBytes}, i % 64 * ${writeBytes})\n  i += 1`,
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
      if (++rounds === 10) writeFileSync(looked, '')
      await sleep(5)
    }
    await ended
    t.ok(rounds >= 10, `${rounds} scrapes under load`)
  })

  await t.test('a standby that comes back counts as a reconnect', async t => {
    await pair.standby.kill()
    await pair.standby.restart()
    // Until the master misses the old session it has nothing to count, and calls itself in sync.
    const reconnects = async () =>
      seriesValue(await scrape(pair.metrics.master), 'understudy_link_reconnects_total', master)
    await becomes(t, 'it is counted', async () => (await reconnects()) !== 0)
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
