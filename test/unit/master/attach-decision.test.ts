import t from 'tap'

import {
  type AttachFacts,
  decideAttach,
  knownAfterAttach,
  knownAtStop,
  type KnownCopy,
} from '../../../src/master/attach-decision.js'

const now = 100n
const before = 50n
const copy: KnownCopy = { replicaId: 'copy', positions: [{ incarnation: before, durable: 10n }] }
const welcome = { replicaId: 'copy', alias: '', incarnation: before, received: 10n, fresh: false, initial: false }
const facts = (changes: Partial<AttachFacts>): AttachFacts => ({
  incarnation: now,
  durable: 0n,
  known: copy,
  welcome,
  ...changes,
})

t.test('a standby that stands where the last clean stop left it is not compared', t => {
  t.match(decideAttach(facts({})), { allDirty: false, fresh: false, initial: false })
  t.match(
    decideAttach(facts({ welcome: { ...welcome, received: 12n } })),
    { allDirty: false },
    'it may have more than it acknowledged',
  )
  t.end()
})

t.test('an empty standby gets everything, without hashes', t => {
  const fresh = { ...welcome, incarnation: 0n, received: 0n, fresh: true, initial: true }
  t.match(decideAttach(facts({ welcome: fresh })), { allDirty: true, fresh: true, initial: true })
  t.match(
    decideAttach(facts({ welcome: { ...fresh, fresh: false } })),
    { allDirty: true, fresh: false, initial: true },
    'a device may hold anything',
  )
  t.end()
})

const ofReign = (reign: string): KnownCopy => ({
  replicaId: `host:${reign}`,
  positions: [{ incarnation: before, durable: 10n }],
})

t.test('what was the device of the reign before is known by that, also after its host has another key', t => {
  for (const host of ['host', 'rotated']) {
    const given = facts({ known: ofReign('0a'), welcome: { ...welcome, alias: `${host}:0a` } })
    t.match(decideAttach(given), { allDirty: false }, host)
  }
  t.end()
})

t.test('whatever the map was not kept for is compared as a whole (G4)', t => {
  const cases: [string, Partial<AttachFacts>][] = [
    ['after an unclean stop', { known: undefined }],
    ['another copy', { welcome: { ...welcome, replicaId: 'another' } }],
    ['what was the device of another reign', { known: ofReign('0a'), welcome: { ...welcome, alias: 'host:0b' } }],
    ['a name without a reign', { known: ofReign(''), welcome: { ...welcome, alias: 'host:' } }],
    ['a copy without another name', { known: ofReign('0a') }],
    ['a history that is not known', { welcome: { ...welcome, incarnation: 7n } }],
    ['a copy that went back behind what it had acknowledged', { welcome: { ...welcome, received: 9n } }],
    ['a copy that went back before this incarnation', { durable: 3n }],
    ['this incarnation, never attached', { welcome: { ...welcome, incarnation: now } }],
  ]
  for (const [title, changes] of cases) t.match(decideAttach(facts(changes)), { allDirty: true, fresh: false }, title)
  t.end()
})

t.test('an initial synchronisation that was interrupted goes on where it was', t => {
  const first = facts({
    known: undefined,
    welcome: { ...welcome, incarnation: 0n, received: 0n, fresh: true, initial: true },
  })
  const known = knownAfterAttach(first, decideAttach(first))
  const again = facts({ known, durable: 5n, welcome: { ...welcome, incarnation: now, received: 7n, initial: true } })
  t.match(decideAttach(again), { allDirty: false, initial: true, fresh: false })
  t.match(
    decideAttach({ ...again, durable: 8n }),
    { allDirty: true },
    'but not when it has lost what it had acknowledged',
  )
  t.end()
})

t.test('a session that ends before anything arrived leaves both positions good', t => {
  const first = facts({})
  const known = knownAfterAttach(first, decideAttach(first))
  t.match(decideAttach(facts({ known })), { allDirty: false }, 'the old one')
  t.match(
    decideAttach(facts({ known, welcome: { ...welcome, incarnation: now, received: 1n } })),
    { allDirty: false },
    'the new one',
  )
  t.match(
    decideAttach(facts({ known, durable: 1n })),
    { allDirty: true },
    'the old one no longer, once the new one is durable',
  )
  t.end()
})

t.test('after a comparison of everything no earlier position is good', t => {
  const first = facts({ welcome: { ...welcome, received: 9n } })
  const known = knownAfterAttach(first, decideAttach(first))
  t.same(known, { replicaId: 'copy', positions: [{ incarnation: now, durable: 0n }] })
  t.end()
})

t.test('a clean stop keeps the position the map is good for', t => {
  t.same(knownAtStop(copy, now, 0n), copy, 'a standby that never came back')
  t.same(knownAtStop(copy, now, 4n), { replicaId: 'copy', positions: [{ incarnation: now, durable: 4n }] })
  t.equal(knownAtStop(undefined, now, 4n), undefined)
  t.end()
})
