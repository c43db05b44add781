import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { systemClock } from '../../../src/core/clock.js'

t.test('who asks for the same interval is called at the same moments, until it wants no more', async t => {
  let moment = 0
  const seen: Record<string, number[]> = { a: [], b: [], c: [] }
  const note = (name: string) => (): void => {
    if (seen[name]?.push(moment) === 1) t.pass(`${name} is called`)
    setImmediate(() => moment++)
  }
  const stopA = systemClock.every(20, note('a'))
  await sleep(7)
  const stopB = systemClock.every(20, note('b'))
  for (let tries = 0; (seen['b']?.length ?? 0) < 3 && tries < 1000; tries++) await sleep(10)
  t.ok(
    seen['b']?.every(at => seen['a']?.includes(at)),
    'one wake-up for both',
  )
  stopA()
  const last = seen['a']?.length
  for (let tries = 0; (seen['b']?.length ?? 0) < 5 && tries < 1000; tries++) await sleep(10)
  t.equal(seen['a']?.length, last)
  stopB()
  await sleep(60)
  const stopC = systemClock.every(20, note('c'))
  for (let tries = 0; seen['c']?.length === 0 && tries < 1000; tries++) await sleep(10)
  stopC()
  stopC()
  t.ok(seen['c']?.length, 'also after all had stopped')
})
