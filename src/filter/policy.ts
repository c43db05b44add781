/**
 * What a volume's owner wants replicated, in the words of the command line (core/config.ts parses them):
 * `--replicate partition=N`, any number of times, and `--exclude RANGE`.
 *
 *   replicated = (no partition named ? everything : the partition table + the partitions named) - excluded ranges
 *                - files that the rules leave out
 *
 * What is left out reads as zeroes on the standby.
 */
import type { FilterFallback } from '../core/config-types.js'
import { UnderstudyError } from '../core/errors.js'
import { formatSize } from '../core/units.js'
import type { ByteRange } from '../core/units.js'
import type { FileRule } from './file-rules.js'
import type { PartitionTable } from './table.js'

/** The part of a volume's configuration that the filter is compiled from. */
export interface FilterPolicy {
  /** Partition numbers, from 1; empty: the whole device. */
  partitions: readonly number[]
  exclude: readonly ByteRange[]
  /** Absent: all files. */
  files?: FilePolicy
}

export interface FilePolicy {
  rules: readonly FileRule[]
  fallback: FilterFallback
}

/** A policy that this device cannot fulfil. Codes: NO_PARTITION_TABLE, NO_PARTITION, EXCLUDE_OUTSIDE, FILES_NOT_FOLLOWED. */
export class FilterError extends UnderstudyError {
  constructor(code: string, message: string) {
    super(code, message, { exitCode: 2 })
  }
}

/** A volume whose table must be read and followed. */
export function needsTable(policy: FilterPolicy): boolean {
  return policy.partitions.length > 0
}

/** Refuses, at start, what would silently replicate something else than was asked for. `device` is for the message. */
export function checkPolicy(
  policy: FilterPolicy,
  table: PartitionTable | undefined,
  sizeBytes: bigint,
  device: string,
): void {
  for (const range of policy.exclude) {
    if (range.end > sizeBytes) {
      const text = `${range.start}-${range.end}`
      throw new FilterError(
        'EXCLUDE_OUTSIDE',
        `exclude ${text}: ${device} ends at ${sizeBytes} (${formatSize(sizeBytes)})`,
      )
    }
  }
  if (!needsTable(policy)) return
  const wanted = policy.partitions.map(number => `partition=${number}`).join(', ')
  if (table === undefined) {
    const what = `${device} has no partition table (GPT or MBR) that can be read`
    throw new FilterError(
      'NO_PARTITION_TABLE',
      `replicate ${wanted}: ${what}; leave --replicate out to replicate all of it`,
    )
  }
  const missing = policy.partitions.filter(number => !table.partitions.has(number))
  if (missing.length > 0) {
    const there = [...table.partitions.keys()].sort((a, b) => a - b).join(', ') || 'none'
    throw new FilterError(
      'NO_PARTITION',
      `replicate partition=${missing.join(', ')}: not on ${device}, whose partitions are: ${there}`,
    )
  }
}
