import t from 'tap'

import { LagSampler } from '../../../src/core/lag-sampler.js'
import { Rate } from '../../../src/core/rate.js'
import { GroupProgress, groupState, isUsable, type LinkFacts, marksOf } from '../../../src/master/group-progress.js'

const link: LinkFacts = { state: 'connected', reason: '', refusal: '', attached: true, compress: 'off', alone: false }
const counters = (changes: Record<string, bigint>): Record<string, bigint> => ({
  incarnation: 5n,
  peer_incarnation: 5n,
  state: 2n,
  peer_flags: 0n,
  ...changes,
})

t.test('each state of the engine and the link is shown under its own word', t => {
  const cases: [string, Record<string, bigint>, Partial<LinkFacts>, bigint, string][] = [
    ['no standby configured', { state: 0n }, { state: undefined }, 0n, 'alone'],
    ['streaming', {}, {}, 0n, 'replicating'],
    ['streaming, but the standby unusable', { peer_flags: 2n }, {}, 0n, 'initial-sync'],
    ['a step open', { state: 3n }, {}, 0n, 'resyncing'],
    ['a step open at an unusable standby', { state: 3n, peer_flags: 3n }, {}, 0n, 'initial-sync'],
    ['a step being applied', { peer_flags: 1n }, {}, 0n, 'resyncing'],
    ['something dirty', {}, {}, 65536n, 'resyncing'],
    ['away, within the log', {}, { state: 'away', reason: 'gone' }, 0n, 'detached'],
    ['away, log given up', { state: 1n }, { state: 'away', reason: 'gone' }, 0n, 'detached'],
    ['connected, not attached yet', { state: 1n }, { attached: false }, 0n, 'detached'],
    ['refused', {}, { state: 'refused', reason: 'no', refusal: 'size' }, 0n, 'detached'],
    ['refused by one that was promoted', {}, { state: 'refused', reason: 'no', refusal: 'promoted' }, 0n, 'diverged'],
  ]
  for (const [title, engine, changes, dirty, expected] of cases)
    t.equal(groupState(counters(engine), { ...link, ...changes }, dirty).state, expected, title)
  t.end()
})

t.test('a standby that is away is said to be, with where writes go meanwhile', t => {
  const away: LinkFacts = { ...link, state: 'away', reason: 'the standby does not answer' }
  t.match(groupState(counters({}), away, 0n).reason, /does not answer; writes are kept in the replication log/)
  t.match(groupState(counters({ state: 1n }), away, 0n).reason, /marked in the dirty map/)
  t.end()
})

t.test('a standby that is connected and makes no progress is said to make none', t => {
  t.match(groupState(counters({ away: 1n }), link, 0n), { state: 'replicating', reason: /makes no progress/ })
  t.end()
})

t.test('watermarks of another incarnation count as nothing', t => {
  const marks = marksOf(
    counters({ peer_incarnation: 4n, written_sequence: 9n, applied_sequence: 8n, applied_bytes: 1n }),
  )
  t.equal(marks.written, 9n)
  t.equal(marks.applied, 0n)
  t.equal(marks.appliedBytes, 0n)
  t.end()
})

t.test('a standby of which nothing is known is not usable', t => {
  t.equal(isUsable(counters({ peer_incarnation: 0n })), false)
  t.equal(isUsable(counters({ peer_flags: 2n })), false)
  t.equal(isUsable(counters({})), true)
  t.end()
})

t.test('lag is the age of the oldest write that is not applied, and grows while the standby is away', t => {
  const lag = new LagSampler()
  lag.observe(0, 0n, 0n)
  lag.observe(100, 5n, 0n)
  lag.observe(200, 9n, 0n)
  t.equal(lag.ageMs(1100, 0n), 1000)
  t.equal(lag.ageMs(1100, 5n), 900, 'the writes up to 5 are applied: the next one is younger')
  lag.observe(1200, 9n, 9n)
  t.equal(lag.ageMs(5000, 9n), 0, 'all applied')
  t.end()
})

t.test('a standby that is away for long costs bounded memory, and its lag is never shown too small', t => {
  const lag = new LagSampler(64)
  for (let tick = 1; tick <= 10_000; tick++) lag.observe(tick * 100, BigInt(tick), 0n)
  t.equal(lag.ageMs(1_000_000, 0n), 1_000_000 - 100)
  t.ok(lag.ageMs(1_000_000, 5000n) >= 1_000_000 - 5001 * 100)
  t.end()
})

t.test('what was missing before this start ages on, until the standby replicates', t => {
  const progress = new GroupProgress(1_000)
  progress.observe(0, 61_000, counters({ state: 1n }), 'detached')
  t.equal(progress.lagSeconds(0, 61_000, 0n), 60)
  t.equal(progress.oldestMissingMs(0, 61_000, 0n), 1_000)
  progress.observe(100, 61_100, counters({}), 'replicating')
  t.equal(progress.lagSeconds(100, 61_100, 0n), 0)
  t.equal(progress.oldestMissingMs(100, 61_100, 0n), undefined)
  t.end()
})

t.test('a state lasts since it began', t => {
  const progress = new GroupProgress(undefined)
  progress.observe(0, 1_000, counters({}), 'detached')
  progress.observe(100, 1_100, counters({}), 'detached')
  t.equal(progress.sinceMs, 1_000)
  progress.observe(200, 1_200, counters({}), 'replicating')
  t.equal(progress.sinceMs, 1_200)
  t.end()
})

t.test('a resynchronisation shows rate and time left', t => {
  const progress = new GroupProgress(undefined)
  const at = (done: bigint): Record<string, bigint> =>
    counters({ state: 3n, resync_done_bytes: done, resync_total_bytes: 10_000_000n })
  for (let tick = 0; tick <= 50; tick++) progress.observe(tick * 100, 0, at(BigInt(tick) * 100_000n), 'resyncing')
  const shown = progress.resync(at(5_000_000n))
  t.equal(shown?.doneBytes, 5_000_000)
  t.ok(Math.abs((shown?.rate ?? 0) - 1_000_000) < 1000)
  t.ok(Math.abs((shown?.etaSeconds ?? 0) - 5) < 0.1)
  t.equal(progress.resync(counters({})), null, 'none when there is no step')
  t.end()
})

t.test('a rate begins anew when its figure falls', t => {
  const rate = new Rate()
  rate.observe(0, 0)
  rate.observe(1000, 1000)
  t.equal(rate.bytesPerSecond, 1000)
  rate.observe(2000, 10)
  t.equal(rate.bytesPerSecond, 0)
  t.equal(rate.secondsFor(100), null, 'nothing is known yet')
  t.equal(rate.secondsFor(0), 0)
  t.end()
})
