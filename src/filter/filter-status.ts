/** What rules for files do now, for `status`. */
import type { FilterStatus } from '../core/status-types.js'
import type { CompiledFilter } from './follow.js'
import { nameOf } from './live-files.js'
import { fromTable, totalBytes } from './ranges.js'

export function filterStatus(current: CompiledFilter | undefined, savedBytes: bigint): FilterStatus | undefined {
  if (current?.files === undefined) return undefined
  const { fileSystems, ranges, rules } = current.files
  const all = totalBytes(fromTable(current.excluded)) - totalBytes(fromTable(current.byRanges))
  return {
    leftOutBytes: Number(all),
    rangeCount: ranges.length,
    savedBytes: Number(savedBytes),
    rules: rules.map(({ rule, kind, files, bytes }) => ({ rule, kind, files, bytes })),
    replicatedWhole: fileSystems
      .filter(({ replicatedBecause }) => replicatedBecause !== '')
      .map(one => ({ place: nameOf(one), why: one.replicatedBecause })),
  }
}
