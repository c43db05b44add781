/** A partition table as the filter needs it. */
import type { ByteRange } from '../core/units.js'
import type { Addon } from '../native/binding.js'

/** What addon.partitions() answers. */
export type TableEntry = Awaited<ReturnType<Addon['partitions']>>[number]

export interface PartitionTable {
  scheme: 'gpt' | 'dos'
  /** By number; a container of logical partitions is one of them, with its full size. */
  partitions: Map<number, ByteRange>
  /** Where the table itself lies. */
  areas: ByteRange[]
}

/** Undefined: there is no table, or one that this filter does not know (so where partitions lie is not known either). */
export function tableOf(entries: readonly TableEntry[]): PartitionTable | undefined {
  const scheme = entries[0]?.scheme
  if (scheme !== 'gpt' && scheme !== 'dos') return undefined
  const table: PartitionTable = { scheme, partitions: new Map(), areas: [] }
  for (const entry of entries) {
    const range = { start: entry.offset, end: entry.offset + entry.sizeBytes }
    if (entry.number === 0) table.areas.push(range)
    else table.partitions.set(entry.number, range)
  }
  return table
}
