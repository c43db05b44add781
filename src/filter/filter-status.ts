/** The filter that is in force, and what it does now, for `status`. */
import type { FilterConfig } from '../core/config-types.js'
import type { FilterStatus } from '../core/status-types.js'
import { notChosen } from './compile-files.js'
import { filterKeys } from './filter-change.js'
import type { CompiledFilter } from './follow.js'
import { nameOf } from './live-files.js'
import { fromTable, totalBytes } from './ranges.js'

export function filterStatus(
  config: FilterConfig,
  current: CompiledFilter | undefined,
  savedBytes: bigint,
  savedByRule: Record<string, number>,
): FilterStatus | undefined {
  const keys = filterKeys(config)
  if (keys.length === 0 || current === undefined) return undefined
  const leftOutByRanges = Number(totalBytes(fromTable(current.byRanges)))
  const ranges = {
    keys,
    leftOutByRanges,
    savedBytes: Number(savedBytes),
    savedNotChosenBytes: savedByRule[notChosen] ?? 0,
  }
  if (current.files === undefined) return { ...ranges, leftOutBytes: 0, rangeCount: 0, rules: [], replicatedWhole: [] }
  const { account, bytes, rangeCount } = current.files
  const { fileSystems, rules } = account
  return {
    ...ranges,
    leftOutBytes: bytes,
    rangeCount,
    rules: rules.map(({ rule, kind, files, bytes }) => ({
      ...{ rule, kind, files, bytes },
      savedBytes: kind === 'exclude' ? (savedByRule[rule] ?? 0) : 0,
    })),
    replicatedWhole: fileSystems
      .filter(({ replicatedBecause }) => replicatedBecause !== '')
      .map(one => ({ place: nameOf(one), why: one.replicatedBecause })),
  }
}
