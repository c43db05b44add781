/**
 * A change of what a volume leaves out while it is served: what was asked for, in the words of the command line, and what
 * becomes of it. follow.ts puts it in force.
 */
import { type FilterConfig, type FilterFallback, filterFallbacks, type VolumeConfig } from '../core/config-types.js'
import { UsageError } from '../core/errors.js'
import { formatRange, parsePartition, parseRange } from '../core/units.js'
import { parseFileRules } from './file-rules.js'

/** Lists that are absent or empty ask for nothing: what is in force stays, or with `clear` goes. */
export interface FilterWish {
  clear: boolean
  replicate: readonly string[]
  exclude: readonly string[]
  excludeFiles: readonly string[]
  onlyFiles: readonly string[]
  /** '': as before. */
  fallback: string
}

/** In bytes of the volume. */
export interface FilterOutcome {
  /** False: it was only asked what would be. */
  inForce: boolean
  /** The whole filter, as understudy.toml has it, a key each; empty: everything is replicated. */
  keys: string[]
  sizeBytes: number
  leftOutBytes: number
  /** Left out before, and not any more. */
  enteringBytes: number
  leavingBytes: number
  warnings: string[]
}

const everything: FilterConfig = { partitions: [], exclude: [] }

/** Throws UsageError. Whether the device can fulfil it is for others to say. */
export function wantedFilter(inForce: FilterConfig, wish: FilterWish): FilterConfig {
  const before = wish.clear ? everything : inForce
  const chosen = <T, U>(asked: readonly T[], parse: (text: T) => U, otherwise: U[]): U[] =>
    asked.length === 0 ? otherwise : asked.map(parse)
  const filter: FilterConfig = {
    partitions: [...new Set(chosen(wish.replicate, parsePartition, before.partitions))].sort((a, b) => a - b),
    exclude: chosen(wish.exclude, parseRange, before.exclude),
  }
  const text = (glob: string): string => glob
  const files = {
    exclude: chosen(wish.excludeFiles, text, before.files?.exclude ?? []),
    only: chosen(wish.onlyFiles, text, before.files?.only ?? []),
    fallback: wish.fallback === '' ? (before.files?.fallback ?? 'refuse') : parseFallback(wish.fallback),
  }
  const hasRules = parseFileRules(files.exclude, files.only).length > 0
  if (hasRules) filter.files = files
  else if (wish.fallback !== '')
    throw new UsageError('--filter-fallback: it is about rules for files, and there are none')
  return filter
}

function parseFallback(text: string): FilterFallback {
  const found = filterFallbacks.find(word => word === text)
  if (found === undefined)
    throw new UsageError(`--filter-fallback '${text}': it must be one of ${filterFallbacks.join(', ')}`)
  return found
}

export function setFilter(config: VolumeConfig, { partitions, exclude, files }: FilterConfig): void {
  Object.assign(config, { partitions, exclude })
  if (files === undefined) delete config.files
  else config.files = files
}

/** As understudy.toml has it. */
export function filterKeys({ partitions, exclude, files }: FilterConfig): string[] {
  const list = (key: string, values: readonly string[]): string[] =>
    values.length === 0 ? [] : [`${key} = ${JSON.stringify(values).replaceAll('","', '", "')}`]
  return [
    ...list(
      'replicate',
      partitions.map(number => `partition=${number}`),
    ),
    ...list('exclude', exclude.map(formatRange)),
    ...list('exclude_files', files?.exclude ?? []),
    ...list('only_files', files?.only ?? []),
    ...(files === undefined || files.fallback === 'refuse' ? [] : [`filter_fallback = "${files.fallback}"`]),
  ]
}
