/** What the benchmark (bench/) makes of its samples: verdicts, what is void, what is rendered. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { execute, ROOT, scratch } from '../support/daemon.js'

interface Spread {
  median: number
  min: number
  max: number
  count: number
}
type Sample = Record<string, number | string | object | null>
type Samples = Record<string, Sample[]>
interface Figure {
  text: string
  load: string
  peer: string
  measure: string
  unit: string
  against?: string[]
  againstMeasure?: string
  compare?: 'ratio' | 'difference'
  percent?: number
  atLeast?: number
  atMost?: number
  headline?: string
}
interface Judged {
  value: Spread | null
  against: string | null
  state: 'good' | 'missed' | 'void' | 'absent'
  voids: string[]
}
interface Part {
  name: string
  title: string
  place: string
  peers: string[]
  loads: Load[]
  figures: Figure[]
  slow?: boolean
  slowWhenQuick?: boolean
  judgedWhenQuick?: boolean
  rounds?: number
  usualRounds?: number
}
interface Load {
  name: string
  unit: string
  quick?: boolean
  reads?: number
  seconds?: number
  peers?: string[]
}
interface Plan {
  quick: boolean
  rounds: number
  isRoundsAsked: boolean
  seconds: number
  slowSeconds: number
}
type JudgedPart = Omit<Part, 'figures'> & { samples: Record<string, Samples>; figures: (Figure & Judged)[] }
interface Document {
  machine: object
  plan: object
  parts: JudgedPart[]
}

/** bench/ is plain JavaScript that no compiler of ours has seen. */
const load = async <Module>(path: string): Promise<Module> =>
  (await import(pathToFileURL(join(ROOT, 'bench', path)).href)) as Module

const { spread, paired } = await load<{
  spread: (values: (number | null)[], percent?: number) => Spread | null
  paired: (a: (number | null)[], b: (number | null)[], combine: (a: number, b: number) => number) => (number | null)[]
}>('lib/statistics.mjs')
const { judge, margin } = await load<{
  judge: (figure: Figure, samples: Samples) => Judged
  margin: (figure: Figure, value: number) => number | null
}>('lib/verdict.mjs')
interface Standing {
  atMs: number
  detaches: number
  logBytes: number
}
const { voidReason, secondsUntilApplied, historyVoidReason } = await load<{
  historyVoidReason: (kind: string, found: Record<'epochs' | 'clonedEpochs' | 'savedMiB', number>) => string | null
  voidReason: (before: Standing | null, after: Standing | null) => string | null
  secondsUntilApplied: (found: { seconds: number; beganMs: number }, after: Standing | null) => number
}>('lib/void.mjs')
const { chosen } = await load<{
  chosen: (parts: Part[], plan: { quick: boolean }, names?: string[]) => Part[] | null
}>('lib/selection.mjs')
const { judged, figureLines, allGood, rateTable, honesty } = await load<{
  judged: (part: Part, samples: Record<string, Samples>) => JudgedPart
  figureLines: (parts: JudgedPart[]) => string[]
  allGood: (parts: JudgedPart[]) => boolean
  rateTable: (part: JudgedPart) => string
  honesty: (parts: { samples: Record<string, Samples> }[]) => string
}>('lib/report.mjs')
const { latest, merged, rendered, replaced, figureTable, rateTables, summary } = await load<{
  rendered: (
    documents: Document[],
    read: (path: string) => string,
  ) => { pages: Record<string, string>; picture: string; kept: string }
  latest: (documents: Document[]) => Document[]
  merged: (documents: Document[]) => Document
  replaced: (text: string, name: string, content: string) => string
  figureTable: (document: Document) => string
  rateTables: (document: Document) => string
  summary: (document: Document) => string
}>('lib/pages.mjs')
const { understood, help } = await load<{
  understood: (args: string[]) => { help?: true; wrong?: string; paths: string[]; plan: Plan & { sizeBytes: number } }
  help: (parts: Part[], peers: Record<string, { what: string }>) => string
}>('lib/options.mjs')
const { secondsOf, roundsOf, replicatedSecondsMin } = await load<{
  secondsOf: (part: Part, load: Load, plan: Plan) => number
  roundsOf: (part: Part, plan: Plan) => number
  replicatedSecondsMin: number
}>('lib/plan.mjs')
interface Peer {
  start: () => Promise<object | null>
}
const { measurePart } = await load<{
  measurePart: (
    part: Part,
    plan: Plan & { folders: Record<string, string>; sizeBytes: number },
    told: (round: number, load: Load, name: string) => void,
    available: Record<string, Peer>,
  ) => Promise<Record<string, Samples>>
}>('lib/rounds.mjs')
interface Busy {
  busy: number
  whole: number
  own: number
}
const { busyTime, shareOfOthers } = await load<{
  busyTime: () => Busy
  shareOfOthers: (before: Busy, after: Busy) => number
}>('lib/machine.mjs')
const { chart } = await load<{ chart: (document: Document) => string }>('lib/chart.mjs')
const { parts } = await load<{ parts: Part[] }>('figures.mjs')
const { peers } = await load<{ peers: Record<string, { what: string }> }>('peers/all.mjs')

const rates = (...values: number[]): Sample[] => values.map(rate => ({ void: null, rate }))
const figure: Figure = {
  text: 'a against b',
  load: 'writes',
  peer: 'a',
  against: ['b'],
  measure: 'rate',
  unit: 'times',
}

t.test('a median, with what is missing left out', t => {
  t.same(spread([3, null, 1, 2]), { median: 2, min: 1, max: 3, count: 3 })
  t.same(spread([4, 1]), { median: 2.5, min: 1, max: 4, count: 2 })
  t.equal(spread([null]), null)
  t.same(
    paired([1, null, 3, 4], [2, 2, null], (a, b) => a / b),
    [0.5, null, null, null],
  )
  t.end()
})

t.test('a percentile is a value that was found, and what a figure with one is judged by', t => {
  const found = Array.from({ length: 200 }, (_, index) => 200 - index)
  const at = (percent: number): number | undefined => spread(found, percent)?.median
  t.same([at(50), at(95), at(99), at(100)], [100, 190, 198, 200])
  t.equal(spread([7], 1)?.median, 7)
  const { against: _, ...alone } = figure
  t.match(judge({ ...alone, percent: 99, atMost: 198 }, { a: rates(...found) }), { state: 'good' })
  t.match(judge({ ...alone, percent: 99, atMost: 197 }, { a: rates(...found) }), { state: 'missed' })
  t.end()
})

t.test('a ratio is taken within a round: a machine that gets slower does not change it', t => {
  const samples = { a: rates(100, 50, 10), b: rates(50, 25, 5) }
  t.match(judge({ ...figure, atLeast: 2 }, samples), { state: 'good', value: { median: 2, min: 2, max: 2 } })
  t.match(judge({ ...figure, atLeast: 2.01 }, samples), { state: 'missed' })
  t.match(judge({ ...figure, atMost: 1.9 }, samples), { state: 'missed' })
  t.end()
})

t.test('among several it is compared with the fastest, in everything', t => {
  const cpu = (rate: number, cpuUs: number): Sample => ({ void: null, rate, cpuUs })
  const samples = { a: [cpu(10, 4)], b: [cpu(5, 1)], c: [cpu(8, 8)] }
  t.match(judge({ ...figure, against: ['b', 'c', 'none'], measure: 'cpuUs', atMost: 0.5 }, samples), {
    against: 'c',
    state: 'good',
    value: { median: 0.5 },
  })
  t.end()
})

t.test('differences, other measures of the other side, and figures of one peer alone', t => {
  const samples = { a: [{ p50Us: 70, p99Us: 90 }], b: [{ rate: 1, p50Us: 20 }] }
  const difference: Figure = { ...figure, measure: 'p50Us', compare: 'difference', atMost: 50, unit: 'us' }
  t.match(judge(difference, samples), { value: { median: 50 }, state: 'good' })
  t.match(judge({ ...figure, measure: 'p99Us', againstMeasure: 'p50Us', atMost: 4 }, samples), { state: 'missed' })
  const { against: _, ...alone } = figure
  t.match(judge({ ...alone, measure: 'p99Us', atMost: 90 }, samples), { against: null, state: 'good' })
  t.end()
})

t.test('one void measurement of the judged peer voids its figure; one of the other side takes its round out', t => {
  const [good, gone] = [rates(4, 4), [{ void: 'detached', rate: 9 }, ...rates(4)]]
  t.match(judge({ ...figure, atLeast: 1 }, { a: gone, b: good }), { state: 'void', voids: ['detached'] })
  t.match(judge({ ...figure, atLeast: 1 }, { a: good, b: gone }), { state: 'good', value: { count: 1 } })
  t.match(judge({ ...figure, atLeast: 1 }, { a: good, b: gone.slice(0, 1) }), { state: 'void', value: null })
  t.match(judge({ ...figure, atLeast: 1 }, { a: good }), { state: 'absent' }, 'which is not the same as not measured')
  t.end()
})

t.test('a detach, or a log that is fuller than before, voids a measurement', t => {
  const at = (detaches: number, logBytes: number): Standing => ({ atMs: 0, detaches, logBytes })
  t.equal(voidReason(at(1, 100), at(1, 100)), null)
  t.equal(voidReason(at(1, 100), at(2, 0)), 'detached')
  t.equal(voidReason(at(0, 100), at(0, 101)), 'log fuller than before')
  t.equal(voidReason(null, null), null)
  t.end()
})

t.test('what a history costs counts if it had several epochs, of the kind that the file system makes', t => {
  const of = (epochs: number, clonedEpochs: number, savedMiB: number): Parameters<typeof historyVoidReason>[1] => ({
    ...{ epochs, clonedEpochs, savedMiB },
  })
  t.equal(historyVoidReason('xfs', of(3, 2, 100)), null)
  t.equal(historyVoidReason('xfs', of(2, 2, 0)), '2 epochs only')
  t.equal(historyVoidReason('xfs', of(3, 0, 100)), 'no epoch had clones')
  t.equal(historyVoidReason('ext4', of(3, 0, 100)), null)
  t.equal(historyVoidReason('ext4', of(3, 0, 0)), 'no blocks were saved')
  t.equal(historyVoidReason('ext4', of(3, 1, 100)), 'no blocks were saved')
  t.end()
})

t.test('a replicated load lasts until all of it is applied, and never less than the client took', t => {
  t.equal(secondsUntilApplied({ seconds: 2, beganMs: 1000 }, { atMs: 6000, detaches: 0, logBytes: 0 }), 5)
  t.equal(secondsUntilApplied({ seconds: 2, beganMs: 1000 }, { atMs: 2900, detaches: 0, logBytes: 0 }), 2)
  t.equal(secondsUntilApplied({ seconds: 2, beganMs: 1000 }, null), 2)
  t.end()
})

t.test('how far a figure is from what is asked, whichever way is better', t => {
  t.equal(margin({ ...figure, atLeast: 2 }, 3), 1.5)
  t.equal(margin({ ...figure, atMost: 2 }, 4), 0.5)
  t.equal(margin({ ...figure, atMost: 2 }, -1), null)
  t.end()
})

t.test('--quick and --only: what is left of the parts', t => {
  const loads = [{ name: 'writes', unit: 'requests', quick: true }, { name: 'reads', unit: 'requests' }] // prettier-ignore
  const one: Part = { name: 'one', title: '', place: 'memory', peers: ['a', 'b'], loads, figures: [figure, { ...figure, load: 'reads' }] } // prettier-ignore
  const two: Part = { ...one, name: 'two', peers: ['b', 'c'], loads: loads.slice(1), figures: [] }
  const names = (quick: boolean, only?: string[]): unknown =>
    chosen([one, two], { quick }, only)?.map(part => [part.name, part.peers, part.loads.length, part.figures.length])
  t.same(names(false), [['one', ['a', 'b'], 2, 2], ['two', ['b', 'c'], 1, 0]]) // prettier-ignore
  t.same(names(true), [['one', ['a', 'b'], 1, 1]])
  t.same(names(false, ['c']), [['two', ['c'], 1, 0]])
  t.same(names(false, ['one', 'b']), [['one', ['b'], 2, 2]])
  const judgedOnly = chosen([{ ...one, peers: ['a', 'b', 'c'], judgedWhenQuick: true }], { quick: true })
  t.same(
    judgedOnly?.[0]?.loads.map(({ peers }) => peers),
    [['a', 'b']],
    'with --quick, where a part says so, the peers that a figure compares',
  )
  t.equal(names(false, ['none']), undefined)
  t.end()
})

t.test('every figure names a load, peers and a unit that exist, and one threshold', t => {
  for (const part of parts) {
    for (const peer of part.peers) t.ok(peer in peers, `${part.name}: ${peer}`)
    for (const { text, load, peer, against = [], atLeast, atMost } of part.figures) {
      t.ok(
        part.loads.some(({ name }) => name === load),
        `${text}: ${load}`,
      )
      for (const name of [peer, ...against]) t.ok(part.peers.includes(name), `${text}: ${name}`)
      t.ok((atLeast === undefined) !== (atMost === undefined), text)
    }
  }
  t.end()
})

t.test('what a terminal, the pages and the picture show', t => {
  const part: Part = {
    ...{ name: 'one', title: 'In memory', place: 'memory', peers: ['a', 'b', 'v'] },
    loads: [{ name: 'writes', unit: 'requests' }],
    figures: [
      { ...figure, atLeast: 1, headline: 'as fast as b' },
      { ...figure, text: 'slow', atLeast: 9 },
      { ...figure, text: 'gone', peer: 'v', atLeast: 1 },
      { ...figure, text: 'nothing', peer: 'none', atLeast: 1 },
    ],
  }
  const found = judged(part, { writes: { a: rates(2000, 2000), b: rates(1000, 500), v: [{ void: 'detached' }] } })
  t.notOk(allGood([found]))
  t.ok(allGood([{ ...found, figures: found.figures.filter(({ state }) => state === 'good' || state === 'absent') }]))
  t.match(
    rateTable(found),
    /writes +2\.0k\/s \[2\.0k\/s\.\.2\.0k\/s\] +0\.8k\/s \[0\.5k\/s\.\.1\.0k\/s\] +void: detached/,
  )
  const lines = figureLines([found]).join('\n')
  t.match(lines, /a against b +writes +3\.00 x \[2\.00 x\.\.4\.00 x\] +at least 1\.00 x +against b +yes/)
  t.match(lines, /slow .* NO\n(.*)gone +writes +void: detached .* VOID\n(.*)nothing +writes +not measured/)

  const machine = {
    processor: 'x < y',
    cores: 2,
    time: '2026-01-01T00:00:00Z',
    load: [1, 2, 3],
    versions: { a: 'a 1' },
  }
  const document = { machine, plan: {}, parts: [found] }
  t.match(figureTable(document), '| 🟢 | a against b | writes | 3.00 x (2.00 x to 4.00 x) | at least 1.00 x | b |')
  t.match(figureTable(document), '| 🔴 void | gone | writes | void: detached |')
  t.notMatch(figureTable(document), 'nothing')
  t.match(rateTables(document), '### In memory\n\n| | a | b | v |')
  t.match(rateTables(document), '| void: detached |')
  t.match(summary(document), '- 🟢 as fast as b: 3.00 x (asked: at least 1.00 x)\n\nMeasured on x < y, 2 cores')
  t.match(summary(document), '1 of 3 figures are reached')
  t.match(summary({ ...document, plan: { shared: true } }), 'The machine had much other work during one')
  const picture = chart(document)
  t.match(picture, 'x &lt; y')
  t.equal(picture.match(/<rect/g)?.length, 2, 'a bar for each that has a value')
  t.match(picture, /fill="#1a7f37"/)
  t.match(picture, /fill="#cf222e"/)
  t.end()
})

t.test('the pages can be made again from what is kept of the results, and are what it makes', t => {
  const part = { name: 'one', title: 'In memory', place: 'memory', peers: ['a', 'b'], loads: [{ name: 'writes', unit: 'requests' }], figures: [{ ...figure, atLeast: 1, headline: 'fast' }] } // prettier-ignore
  const machine = { processor: 'x', cores: 2, time: '2026-01-01T00:00:00Z', load: [1], versions: { a: 'a 1' } }
  const samples = { writes: { a: rates(2000.123456), b: rates(1000) } }
  const places = ['summary', 'conditions', 'figures', 'rates'].map(name => `<!-- bench: ${name} -->\n<!-- /bench -->\n`)
  const first = rendered([{ machine, plan: {}, parts: [judged(part, samples)] }], () => places.join(''))
  t.match(first.pages['README.md'], '🟢 fast: 2.00 x (asked: at least 1.00 x)')
  t.match(
    first.pages['docs/performance.md'],
    /Void of 2 measurements: none\.[^]*\| writes \| 2\.0k\/s \(2\.0k\/s to 2\.0k\/s\) \|/,
  )
  t.same(
    rendered(JSON.parse(first.kept) as Document[], path => first.pages[path] ?? ''),
    first,
  )

  const published = join(ROOT, 'bench/results/published.json')
  if (existsSync(published)) {
    const page = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
    const { pages, picture } = rendered(JSON.parse(readFileSync(published, 'utf8')) as Document[], page)
    for (const [path, text] of Object.entries(pages)) t.equal(page(path), text, `nobody has bent ${path}`)
    t.equal(page('docs/performance.svg'), picture)
  }
  t.end()
})

t.test('what a result says of how it was measured', t => {
  const part = (...samples: Sample[]): { samples: Record<string, Samples> } => ({ samples: { writes: { a: samples } } })
  const waited = { detaches: 0, logBytesBefore: 0, logBytesAfter: 0 }
  const whole = { void: null, seconds: 31, waited }
  t.equal(
    honesty([part(whole, { ...whole, seconds: 33 }), part({ void: null, seconds: 1 })]),
    '2 of these measurements ended when applied = written, after 31.0 s or more. Void of 3 measurements: none.',
  )
  t.match(honesty([part(whole, { ...whole, seconds: 2 })]), 'after 2.0 s or more, a first look')
  t.match(honesty([part(whole, { ...whole, void: 'detached' })]), 'Void of 2 measurements: 1 (detached).')
  t.end()
})

t.test('a rate of what replicates counts over at least 30 s, unless a first look is asked for', t => {
  const { plan } = understood([])
  const quick = understood(['--quick']).plan
  const slow = parts.filter(part => part.slow)
  t.strictSame(
    slow.map(({ name }) => name),
    ['replicated', 'durabilities', 'durabilities-disk', 'fsync', 'durable', 'idle'],
  )
  for (const part of slow)
    for (const load of part.loads)
      t.ok(secondsOf(part, load, plan) >= replicatedSecondsMin || load.reads === 100, `${part.name}: ${load.name}`)
  const { seconds } = understood(['--seconds', '7']).plan
  t.equal(seconds, 7)
  t.equal(roundsOf({ ...parts[0]!, rounds: 3 }, plan), 3)
  t.equal(roundsOf({ ...parts[0]!, rounds: 3 }, { ...quick, rounds: 2 }), 2)
  t.end()
})

t.test('peers take turns; one that fails voids its own measurements, and the others go on', async t => {
  const turns: string[] = []
  const peer = (name: string, more: object): Peer => ({
    start: () => Promise.resolve({ processes: {}, settled: () => Promise.resolve(), stop: () => Promise.resolve(turns.push(`${name} ends`)), ...more }), // prettier-ignore
  })
  let calls = 0
  const available: Record<string, Peer> = {
    a: peer('a', { measure: () => Promise.resolve({ rate: 1 }) }),
    b: peer('b', { measure: () => (++calls === 1 ? Promise.reject(new Error('gone\nand more\nand more')) : Promise.resolve({ rate: 2 })) }), // prettier-ignore
    c: { start: () => Promise.reject(new Error('no such program')) },
    d: { start: () => Promise.resolve(null) },
  }
  const loads = [{ name: 'x', unit: 'requests' }, { name: 'y', unit: 'requests', peers: ['a'] }] // prettier-ignore
  const part: Part = { name: 'p', title: '', place: 'memory', peers: ['a', 'b', 'c', 'd'], loads, figures: [] }
  const plan = { ...understood(['--rounds', '2']).plan, folders: { memory: scratch(t).path('memory') } }
  const told = (round: number, load: Load, name: string): unknown => turns.push(`${round} ${load.name} ${name}`)
  const samples = await measurePart(part, plan, told, available)
  t.same(turns, ['0 x a', '0 x b', '0 x c', '0 y a', '1 x a', '1 x b', '1 x c', '1 y a', 'a ends', 'b ends'])
  t.match(samples, { x: { a: [{ rate: 1 }, { rate: 1 }], b: [{ void: 'failed: gone and more' }, { rate: 2 }] } })
  t.match(samples.x?.c, [{ void: 'failed: no such program' }, { void: 'failed: no such program' }])
  t.notOk('d' in (samples.x ?? {}), 'one that is not to be had here is left out')
  t.match(judge({ ...figure, peer: 'b', against: ['a'], atLeast: 1 }, samples.x ?? {}), { state: 'void' })
})

t.test('the help names all parts and peers; what is wrong is said in one line, before anything is set up', async t => {
  const text = help(parts, peers)
  for (const name of [...parts.map(part => part.name), ...Object.keys(peers)])
    t.match(text, new RegExp(`^  ${name}\\b`, 'm'))
  const bench = (...args: string[]): ReturnType<typeof execute> => execute(process.execPath, [join(ROOT, 'bench/main.mjs'), ...args]) // prettier-ignore
  t.match(await bench('--help'), { code: 0, stdout: text, stderr: '' })
  for (const args of [['--fast'], ['--rounds', 'many'], ['--only', 'nobody'], ['results.json'], ['--rounds']]) {
    const { code, stdout, stderr } = await bench(...args)
    t.match({ code, stdout }, { code: 2, stdout: '' }, args.join(' '))
    t.match(stderr, /^bench: .+; npm run bench -- --help tells more\n$/)
  }
})

t.test('what other work has of the processors meanwhile', t => {
  const at = (busy: number, whole: number, own: number): Busy => ({ busy, whole, own })
  t.equal(shareOfOthers(at(10, 100, 5), at(14, 110, 6)), 0.3)
  t.equal(shareOfOthers(at(10, 100, 5), at(14, 110, 9.01)), 0, 'counters are not read at the same moment')
  t.equal(shareOfOthers(at(10, 100, 5), at(10, 100, 5)), 0)
  const { busy, whole, own } = busyTime()
  t.ok(own > 0 && own < busy && busy < whole)
  t.end()
})

t.test('of several results, a part is taken from the last that has it', t => {
  const result = (...names: string[]): Document => ({
    machine: { names },
    plan: {},
    parts: names.map(name => ({
      name,
      title: names.join(),
      place: '',
      peers: [],
      loads: [],
      figures: [],
      samples: {},
    })),
  })
  const { parts } = merged([result('a', 'b'), result('b', 'c')])
  t.same(
    parts.map(({ name, title }) => [name, title]),
    [
      ['a', 'a,b'],
      ['b', 'b,c'],
      ['c', 'b,c'],
    ],
  )
  const names = latest([result('a'), result('b'), result('a', 'c')]).map(one => one.parts.map(({ name }) => name))
  t.same(names, [['b'], ['a', 'c']], 'a result of which nothing is left is left out')
  t.end()
})

t.test('a page is changed between its marks only', t => {
  const page =
    'before\n<!-- bench: figures -->\nold\n<!-- /bench -->\nbetween\n<!-- bench: rates -->\n<!-- /bench -->\n'
  const after = replaced(replaced(page, 'figures', 'new $& \\1'), 'rates', 'r')
  t.equal(after, page.replace('old', () => 'new $& \\1').replace('rates -->\n', 'rates -->\nr\n'))
  t.throws(() => replaced(page, 'none', ''), /there is no place for 'none'/)
  t.end()
})
