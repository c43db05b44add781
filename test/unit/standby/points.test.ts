import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { type HistoryPoint, PointsFile, pointsMax } from '../../../src/standby/points.js'

const point = (sequence: number, label = `point ${sequence}`): HistoryPoint => ({
  kind: 'mark',
  label,
  incarnation: (1n << 64n) - 1n,
  sequence: BigInt(sequence),
  timeNs: 1_764_403_200_000_000_000n + BigInt(sequence),
})
const all = (): boolean => true

function scratch(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'points-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return join(directory, 'points')
}

t.test('points are there after a restart as they were noted, in their order', t => {
  const path = scratch(t)
  const file = new PointsFile(path)
  t.same(file.points, [])
  const points = [
    point(1),
    { ...point(2), kind: 'clean-stop' as const, label: 'clean-stop' },
    point(3, 'a "b" \\ ü 🙂'),
  ]
  for (const one of points) file.add(one, all)
  t.same(file.points, points)
  t.same(new PointsFile(path).points, points)
  t.end()
})

t.test('a power cut in the middle of a line costs that line, and the next point is whole (G8)', t => {
  const path = scratch(t)
  const file = new PointsFile(path)
  file.add(point(1), all)
  const whole = readFileSync(path).length
  file.add(point(2), all)
  const both = readFileSync(path)
  for (let bytes = whole; bytes < both.length; bytes++) {
    writeFileSync(path, both)
    truncateSync(path, bytes)
    const after = new PointsFile(path)
    t.same(after.points, [point(1)], `cut at ${bytes}`)
    after.add(point(3), all)
    t.same(new PointsFile(path).points, [point(1), point(3)])
  }
  t.end()
})

t.test('a wrong byte never makes another point, and the ones before it stay (G8)', t => {
  const path = scratch(t)
  const file = new PointsFile(path)
  for (const sequence of [1, 2, 3]) file.add(point(sequence), all)
  const good = readFileSync(path)
  const line = good.indexOf('\n') + 1
  for (let at = line; at < 2 * line; at++) {
    const bad = Buffer.from(good)
    bad.writeUInt8((bad.readUInt8(at) + 1) & 0x7f, at)
    writeFileSync(path, bad)
    const labels = new PointsFile(path).points.map(({ label }) => label)
    t.ok(labels[0] === 'point 1' && !labels.includes('point 2'), `byte ${at}: ${labels.join(', ')}`)
  }
  t.end()
})

t.test('a file of somebody else is left as it is until a point is added', t => {
  const path = scratch(t)
  writeFileSync(path, 'no points\n{}\n')
  const file = new PointsFile(path)
  t.same(file.points, [])
  t.equal(readFileSync(path, 'utf8'), 'no points\n{}\n')
  file.add(point(1), all)
  t.same(new PointsFile(path).points, [point(1)])
  t.throws(() => new PointsFile('/proc/self/mem/points'), { name: 'NativeError', message: /read .*points/ })
  t.end()
})

t.test('there are never more than the maximum: what the history has outlived goes first, then the oldest (G7)', t => {
  const path = scratch(t)
  const lines = new PointsFile(path)
  lines.add(point(0), all)
  const [first = ''] = readFileSync(path, 'utf8').split('\n')
  appendFileSync(path, `${first}\n`.repeat(pointsMax - 1))
  const file = new PointsFile(path)
  t.equal(file.points.length, pointsMax)
  file.add(point(1), ({ sequence }) => sequence > 0n)
  t.same(file.points, [point(1)])
  t.same(new PointsFile(path).points, [point(1)])

  appendFileSync(path, `${first}\n`.repeat(pointsMax - 1))
  const full = new PointsFile(path)
  full.add(point(2), all)
  t.ok(full.points.length < pointsMax && full.points.length > pointsMax / 2)
  t.same(full.points.at(-1), point(2))
  t.same(new PointsFile(path).points, full.points)
  t.end()
})

t.test('a point that cannot be written is not there, and the next one is', t => {
  const path = scratch(t)
  const file = new PointsFile(path)
  file.add(point(1), all)
  rmSync(join(path, '..'), { recursive: true })
  t.throws(() => file.add(point(2), all), { name: 'NativeError', code: 'ENOENT' })
  t.same(file.points, [point(1)])
  writeFileSync(scratchAgain(path), '')
  file.add(point(3), all)
  t.same(new PointsFile(path).points, [point(1), point(3)])
  t.end()
})

function scratchAgain(path: string): string {
  mkdirSync(join(path, '..'))
  return path
}
