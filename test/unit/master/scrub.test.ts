/** When volumes are verified by themselves. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { lastVerifyPath, loadLastVerify, saveLastVerify } from '../../../src/master/last-verify.js'
import { Scrub } from '../../../src/master/scrub.js'
import { FakeClock } from '../transport/fakes.js'

const everyMs = 3_600_000

class Stage {
  readonly clock = new FakeClock()
  readonly begun: string[] = []
  readonly last = new Map<string, number>()
  ready = true
  #end: ((failed: boolean) => void)[] = []

  constructor(names: string[], t: Test) {
    const scrub = new Scrub({
      clock: this.clock,
      everyMs,
      volumes: () => names.map(name => ({ name, last: this.#time(name) })),
      ready: () => this.ready,
      run: name => this.#run(name),
    })
    t.teardown(() => {
      scrub.close()
      for (const end of this.#end) end(false)
    })
  }

  async end(failed = false): Promise<void> {
    this.#end.shift()?.(failed)
    await this.clock.advance(0)
  }

  #time(name: string): string | undefined {
    const at = this.last.get(name)
    return at === undefined ? undefined : new Date(at).toISOString()
  }

  #run(name: string): Promise<void> {
    this.begun.push(name)
    return new Promise((resolve, reject) =>
      this.#end.push(failed => {
        if (failed) return reject(new Error('the session was lost'))
        this.last.set(name, this.clock.wallMs())
        resolve()
      }),
    )
  }
}

t.test('one volume at a time is scrubbed, first those that never were, then each in its turn', async t => {
  const stage = new Stage(['a', 'b'], t)
  await stage.clock.advance(1_500)
  t.same(stage.begun, ['a'])
  await stage.clock.advance(everyMs)
  t.same(stage.begun, ['a'], 'the other one waits for its end')
  await stage.end()
  await stage.clock.advance(1_500)
  await stage.end()
  await stage.clock.advance(everyMs / 2)
  t.same(stage.begun, ['a', 'b'], 'neither is due again')
  await stage.clock.advance(everyMs / 2 + 2_000)
  t.same(stage.begun, ['a', 'b', 'a'])
  await stage.end()
})

t.test('no scrub begins while the group does not replicate', async t => {
  const stage = new Stage(['a'], t)
  stage.ready = false
  await stage.clock.advance(2 * everyMs)
  t.same(stage.begun, [])
  stage.ready = true
  await stage.clock.advance(1_500)
  t.same(stage.begun, ['a'])
  await stage.end()
})

t.test('a scrub that failed is tried again ten minutes later, and does not keep others waiting', async t => {
  const stage = new Stage(['a', 'b'], t)
  await stage.clock.advance(1_500)
  await stage.end(true)
  await stage.clock.advance(1_500)
  t.same(stage.begun, ['a', 'b'])
  await stage.end()
  await stage.clock.advance(590_000)
  t.same(stage.begun, ['a', 'b'])
  await stage.clock.advance(20_000)
  t.same(stage.begun, ['a', 'b', 'a'])
  await stage.end()
})

t.test(
  'the last verify is known after a restart; a damaged file, or one of another volume, counts as none',
  async t => {
    const state = mkdtempSync(join(tmpdir(), 'us-'))
    t.teardown(() => rmSync(state, { recursive: true }))
    const verify = { time: '2026-01-01T00:00:00.000Z', chunks: 5, different: 2, repaired: 1, unreadableBytes: 7 }
    t.equal(loadLastVerify(state, 'a', 'uuid'), null)
    saveLastVerify(state, 'a', 'uuid', verify)
    t.same(loadLastVerify(state, 'a', 'uuid'), verify)
    t.equal(loadLastVerify(state, 'a', 'another'), null)
    writeFileSync(lastVerifyPath(state, 'a'), '{"time":')
    t.equal(loadLastVerify(state, 'a', 'uuid'), null)
  },
)
