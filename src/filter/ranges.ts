/** Arithmetic on sets of bytes. A set is normal when its ranges are sorted, not empty, disjoint and do not touch. */
import type { ByteRange } from '../core/units.js'

/** Sorts, joins and drops what is empty. */
export function normalize(ranges: readonly ByteRange[]): ByteRange[] {
  const sorted = ranges.filter(range => range.start < range.end).sort((a, b) => (a.start < b.start ? -1 : 1))
  const result: ByteRange[] = []
  for (const range of sorted) {
    const last = result.at(-1)
    if (last === undefined || range.start > last.end) result.push({ ...range })
    else if (range.end > last.end) last.end = range.end
  }
  return result
}

export function union(...sets: readonly (readonly ByteRange[])[]): ByteRange[] {
  return normalize(sets.flat())
}

/** [0, sizeBytes) without the ranges. */
export function complement(ranges: readonly ByteRange[], sizeBytes: bigint): ByteRange[] {
  const result: ByteRange[] = []
  let start = 0n
  for (const range of normalize(clip(ranges, sizeBytes))) {
    if (start < range.start) result.push({ start, end: range.start })
    start = range.end
  }
  if (start < sizeBytes) result.push({ start, end: sizeBytes })
  return result
}

/** What of the ranges lies in [0, sizeBytes). */
export function clip(ranges: readonly ByteRange[], sizeBytes: bigint): ByteRange[] {
  const end = (range: ByteRange): bigint => (range.end < sizeBytes ? range.end : sizeBytes)
  return ranges.filter(range => range.start < sizeBytes).map(range => ({ start: range.start, end: end(range) }))
}

export function totalBytes(ranges: readonly ByteRange[]): bigint {
  return normalize(ranges).reduce((sum, range) => sum + range.end - range.start, 0n)
}

/** What is in both of two normal sets. */
export function intersection(a: readonly ByteRange[], b: readonly ByteRange[]): ByteRange[] {
  const result: ByteRange[] = []
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    const [one, other] = [a[i], b[j]]
    if (one === undefined || other === undefined) break
    const start = one.start > other.start ? one.start : other.start
    const end = one.end < other.end ? one.end : other.end
    if (start < end) result.push({ start, end })
    if (one.end < other.end) i++
    else j++
  }
  return result
}

/** At most `rangesMax` ranges that hold all of a normal set: the smallest gaps are filled. */
export function coarse(ranges: readonly ByteRange[], rangesMax: number): ByteRange[] {
  if (ranges.length <= rangesMax) return [...ranges]
  const gapBefore = (index: number): bigint => (ranges[index]?.start ?? 0n) - (ranges[index - 1]?.end ?? 0n)
  const widest = ranges.map((_, index) => index).slice(1)
  widest.sort((a, b) => (gapBefore(a) > gapBefore(b) ? -1 : 1))
  const kept = new Set([0, ...widest.slice(0, rangesMax - 1)])
  const result: ByteRange[] = []
  for (const [index, range] of ranges.entries()) {
    const last = result.at(-1)
    if (last === undefined || kept.has(index)) result.push({ ...range })
    else last.end = range.end
  }
  return result
}

/** The form the engine takes: [start, end) pairs, flattened. The ranges must be normal. */
export function toTable(ranges: readonly ByteRange[]): BigUint64Array {
  return BigUint64Array.from(ranges.flatMap(range => [range.start, range.end]))
}

export function fromTable(table: BigUint64Array): ByteRange[] {
  const ranges: ByteRange[] = []
  for (let i = 0; i + 1 < table.length; i += 2) ranges.push({ start: table[i] ?? 0n, end: table[i + 1] ?? 0n })
  return ranges
}

export function sameTable(a: BigUint64Array, b: BigUint64Array): boolean {
  return a.length === b.length && a.every((value, index) => value === b[index])
}
