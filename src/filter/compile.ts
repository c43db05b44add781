/**
 * From a policy and a partition table to the flat tables the engine looks writes up in.
 *
 *   0      1 MiB                                                    end
 *   | head |  partition 1  |  partition 2  |  gap  |  backup GPT    |
 *     kept      left out        chosen      left out     kept          --replicate partition=2
 *
 * Guarantees: both tables are sorted, disjoint and inside the device; every byte of the partition table itself (and of
 * the boot loader in front of the first partition) is replicated, unless it was excluded by name.
 */
import type { ByteRange } from '../core/units.js'
import { needsTable } from './policy.js'
import type { FilterPolicy } from './policy.js'
import { clip, complement, normalize, toTable, union } from './ranges.js'
import type { PartitionTable } from './table.js'

export interface CompiledRanges {
  /** What is not replicated. */
  excluded: BigUint64Array
  /** Where a write can change the partition table. Empty without a partition policy. */
  watched: BigUint64Array
  /** Partitions named by the policy that the table does not have. */
  missing: number[]
  /** False: the policy names partitions and there is no table to find them in, so all of the device is replicated. */
  tableKnown: boolean
}

/** Where boot loaders and tools put what belongs to the table: everything before the first partition, at most this. */
const headBytes = 1n << 20n
/** MBR, GPT header and 16 KiB of entries in sectors of 4096 bytes. */
const tableHeadBytes = 24n << 10n
/** A backup GPT in sectors of 4096 bytes, rounded up. */
const tableTailBytes = 64n << 10n

/**
 * `lastKnown`: where partitions of the policy were when they were last seen.
 *
 * What is not known is replicated: a named partition that has vanished from the table keeps the place where it was
 * last seen, since its bytes are still there and a table is rewritten in several steps; without any readable table
 * every byte of the device may be part of what was asked for, so all is replicated until there is one again.
 */
export function compileRanges(
  policy: FilterPolicy,
  table: PartitionTable | undefined,
  sizeBytes: bigint,
  lastKnown: ReadonlyMap<number, ByteRange> = new Map(),
): CompiledRanges {
  const exclude = normalize(clip(policy.exclude, sizeBytes))
  if (!needsTable(policy)) return { excluded: toTable(exclude), watched: toTable([]), missing: [], tableKnown: true }
  const watched = toTable(watchedRanges(table, sizeBytes))
  if (table === undefined)
    return { excluded: toTable(exclude), watched, missing: [...policy.partitions], tableKnown: false }

  const missing = policy.partitions.filter(number => !table.partitions.has(number))
  const chosen = policy.partitions.flatMap(number => table.partitions.get(number) ?? lastKnown.get(number) ?? [])
  const kept = union([headOf(table, headBytes)], table.areas, chosen)
  return { excluded: toTable(union(complement(kept, sizeBytes), exclude)), watched, missing, tableKnown: true }
}

/** A write here may change the table: its own sectors, and those a tool would write a new one to. */
export function watchedRanges(table: PartitionTable | undefined, sizeBytes: bigint): ByteRange[] {
  if (table !== undefined) return normalize(clip([headOf(table, tableHeadBytes), ...table.areas], sizeBytes))
  const tail = sizeBytes > tableTailBytes ? sizeBytes - tableTailBytes : 0n
  return normalize(
    clip(
      [
        { start: 0n, end: tableHeadBytes },
        { start: tail, end: sizeBytes },
      ],
      sizeBytes,
    ),
  )
}

/** What lies in front of the first partition, at most `bytes`. */
function headOf(table: PartitionTable, bytes: bigint): ByteRange {
  let end = bytes
  for (const range of table.partitions.values()) if (range.start < end) end = range.start
  return { start: 0n, end }
}
