/**
 * Another filter for a volume that is served. The configuration that the volume was opened with becomes what is in force:
 * a reload and a change of roles go on from that. Nothing is written to understudy.toml.
 */
import type { FilterConfig } from '../core/config-types.js'
import type { ByteRange } from '../core/units.js'
import type { CompiledFilter } from '../filter/follow.js'
import { filterKeys, type FilterOutcome, setFilter } from '../filter/filter-change.js'
import { fromTable, totalBytes, union } from '../filter/ranges.js'
import { policyOf } from './group-preparation.js'
import type { OpenVolume } from './open-volumes.js'

/** Throws FilterError, with nothing changed, when the device cannot fulfil it. `dryRun`: changes nothing in any case. */
export async function changeFilter(
  volume: Pick<OpenVolume, 'config' | 'facts' | 'follower'>,
  filter: FilterConfig,
  dryRun: boolean,
): Promise<FilterOutcome> {
  const { config, facts, follower } = volume
  const before = follower.current
  const { compiled, warnings } = dryRun ? await preview(volume, filter) : await change(volume, filter)
  if (!dryRun) setFilter(config, filter)
  return {
    inForce: !dryRun,
    keys: filterKeys(filter),
    sizeBytes: Number(facts.sizeBytes),
    leftOutBytes: Number(totalBytes(rangesOf(compiled))),
    enteringBytes: bytesOf(before, compiled),
    leavingBytes: bytesOf(compiled, before),
    warnings,
  }
}

interface Compiled {
  compiled: CompiledFilter | undefined
  warnings: string[]
}

async function change({ follower }: Pick<OpenVolume, 'follower'>, filter: FilterConfig): Promise<Compiled> {
  const warnings = await follower.change(policyOf(filter))
  return { compiled: follower.current, warnings }
}

async function preview({ follower }: Pick<OpenVolume, 'follower'>, filter: FilterConfig): Promise<Compiled> {
  const warnings: string[] = []
  const other = follower.withPolicy(policyOf(filter), (_, message) => void warnings.push(message))
  try {
    return { compiled: await other.start(), warnings }
  } finally {
    await other.close()
  }
}

const rangesOf = (filter: CompiledFilter | undefined): ByteRange[] =>
  fromTable(filter?.excluded ?? new BigUint64Array())

/** What the one leaves out and the other does not. */
function bytesOf(one: CompiledFilter | undefined, other: CompiledFilter | undefined): number {
  const kept = rangesOf(other)
  return Number(totalBytes(union(rangesOf(one), kept)) - totalBytes(kept))
}
