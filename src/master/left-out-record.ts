/**
 * What the group's file says is left out where rules for files are in force. They change with every commit of a file
 * system, so the file holds a superset: what was in it, and what comes into force next, is on disk before it does.
 *
 *   excluded  holds all that is left out, and may hold more: the next start compares the rest, as all that newly enters
 *   fixed     of it, what --replicate and --exclude leave out: no more than that
 *   basis     what all that was made from
 */
import type { CompiledFilter } from '../filter/follow.js'
import { rangesMax } from '../filter/live-files.js'
import { coarse, fromTable, intersection, totalBytes, toTable, union } from '../filter/ranges.js'
import { keyOf } from '../filter/refusals.js'
import type { ByteRange } from '../core/units.js'
import type { GroupRecord } from './group-file.js'

/** Less is not worth a change of the file. */
const worthBytes = 16n << 20n

const rangesOf = (pairs: bigint[] | undefined): ByteRange[] => fromTable(BigUint64Array.from(pairs ?? []))
const pairsOf = (ranges: readonly ByteRange[]): bigint[] => [...toTable(ranges)]

/** Before it comes into force. False: the record says all of it already. */
export function widen(record: GroupRecord, uuid: string, compiled: CompiledFilter): boolean {
  const { excluded, byRanges } = compiled
  const stored = record.excluded[uuid] ?? []
  const storedFixed = record.fixed?.[uuid]
  const all = pairsOf(coarse(union(rangesOf(stored), fromTable(excluded)), rangesMax))
  // Where no rule for files was in force, what is stored is exact.
  const fixed = pairsOf(intersection(rangesOf(storedFixed ?? stored), fromTable(byRanges)))
  const basis = basisOf(compiled)
  if (same(all, stored) && storedFixed !== undefined && same(fixed, storedFixed) && record.basis?.[uuid] === basis)
    return false
  record.excluded[uuid] = all
  record.fixed = { ...record.fixed, [uuid]: fixed }
  record.basis = { ...record.basis, [uuid]: basis }
  return true
}

/**
 * While the standby gives back: whether what is left out no more is so because files have lost it to somebody, who may have
 * written there what only the standby has. With other rules, or a file system that cannot be read, it is data that the
 * standby never had: to take its zeroes would destroy them.
 */
export function mayTake(record: GroupRecord, uuid: string, compiled: CompiledFilter): boolean {
  return record.basis?.[uuid] === basisOf(compiled)
}

/** The rules, and the file systems that they are in force for. */
function basisOf({ policy, byRanges, files }: CompiledFilter): string {
  const rules = (policy.files?.rules ?? []).map(({ kind, text }) => `${kind} ${text}`)
  return JSON.stringify([[...byRanges].map(String), rules, (files?.followed ?? []).map(keyOf)])
}

export function isMuchMore(record: GroupRecord, uuid: string, left: readonly ByteRange[]): boolean {
  return totalBytes(rangesOf(record.excluded[uuid])) > (totalBytes(left) / 4n) * 5n + worthBytes
}

/** `left` is left out, and all else that was stored is in the dirty maps on disk. */
export function narrow(
  record: GroupRecord,
  uuid: string,
  left: readonly ByteRange[],
  current: CompiledFilter | undefined,
): void {
  record.excluded[uuid] = pairsOf(coarse(left, rangesMax))
  if (current !== undefined)
    record.fixed = { ...record.fixed, [uuid]: pairsOf(intersection(left, fromTable(current.byRanges))) }
}

function same(a: readonly bigint[], b: readonly bigint[]): boolean {
  return a.length === b.length && a.every((value, index) => value === b[index])
}
