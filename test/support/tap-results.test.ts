import t from 'tap'
import { parseTap, type TestResult } from './tap-results.js'

const counts = (results: TestResult[]): Record<string, number> => {
  const sum = { passed: 0, failed: 0, skipped: 0 }
  for (const result of results) sum[result.outcome] += 1
  return sum
}

void t.test('an innermost subtest counts one, its assertions nothing', t => {
  const text = `TAP version 14
# Subtest: outer
    # Subtest: inner
        ok 1 - should be equal
        ok 2 - should be equal
        1..2
    ok 1 - inner # time=2ms
    1..1
ok 1 - outer # time=3ms
ok 2 - bare
1..2
`
  const results = parseTap(text)
  t.same(counts(results), { passed: 2, failed: 0, skipped: 0 })
  t.same(results[0]?.path, ['outer', 'inner'])
  t.end()
})

void t.test('a failure keeps its titles and its diagnostics', t => {
  const text = `# Subtest: outer
    # Subtest: inner
        not ok 1 - should be equal
          ---
          diff: |
            --- expected
            ...
          ...
        1..1
    not ok 1 - inner # time=2ms
    1..1
not ok 1 - outer # time=3ms
1..1
`
  const results = parseTap(text)
  t.same(counts(results), { passed: 0, failed: 1, skipped: 0 })
  t.same(results[0]?.path, ['outer', 'inner'])
  t.match(results[0]?.detail, /not ok - should be equal\ndiff: \|\n.*--- expected/)
  t.end()
})

void t.test('what a native test says before a failure is told with it', t => {
  const text = `# seed 1: fine
ok 1 - first
# seed 2: the chain is broken
not ok 2 - second
1..2
`
  t.equal(parseTap(text)[1]?.detail, '# seed 2: the chain is broken')
  t.end()
})

void t.test('a parent that failed by itself is a failure', t => {
  const text = `# Subtest: outer
    # Subtest: inner
        ok 1 - fine
        1..1
    ok 1 - inner
    not ok 2 - timeout!
    1..2
not ok 1 - outer
1..1
`
  t.same(counts(parseTap(text)), { passed: 1, failed: 1, skipped: 0 })
  t.end()
})

void t.test('skips are counted with their reasons, however they were said', t => {
  const text = `# Subtest: all of it
    ok 1 - needs root # SKIP
    1..1
ok 1 - all of it # time=1ms
ok 2 - by option # SKIP no root here
# Subtest: by plan
    1..0 # because
ok 3 - by plan # SKIP because
ok 4 - later # TODO not written
1..4
`
  const results = parseTap(text)
  t.same(counts(results), { passed: 0, failed: 0, skipped: 4 })
  t.same(
    results.map(result => result.detail),
    ['needs root', 'no root here', 'because', 'TODO not written'],
  )
  t.end()
})

void t.test('output that was cut off, bailed out or planned more is a failure', t => {
  for (const text of [
    'ok 1 - a\n',
    'ok 1 - a\n1..2\n',
    '',
    'ok 1 - a\nBail out! no\n1..1\n',
    '# Subtest: x\n    ok 1 - a\n',
  ]) {
    t.equal(counts(parseTap(text)).failed, 1, JSON.stringify(text))
  }
  t.end()
})

void t.test('a buffered subtest counts like any other', t => {
  const text = `ok 1 - outer # time=4ms {
    ok 1 - inner # time=3ms {
        ok 1 - assertion
        1..1
    }
    1..1
}
1..1
`
  const results = parseTap(text)
  t.same(counts(results), { passed: 1, failed: 0, skipped: 0 })
  t.same(results[0]?.path, ['outer', 'inner'])
  t.end()
})

void t.test('what a test prints beside TAP is ignored', t => {
  t.same(counts(parseTap('hello\n# a comment\nok 1 - a # time=1ms\n  okay then\n1..1\n# time=2ms\n')), {
    passed: 1,
    failed: 0,
    skipped: 0,
  })
  t.end()
})
