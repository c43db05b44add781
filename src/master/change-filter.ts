/**
 * Another filter for a volume that is served. The configuration that the volume was opened with becomes what is in force:
 * a reload and a change of roles go on from that. Nothing is written to understudy.toml.
 */
import type { FilterConfig } from '../core/config-types.js'
import type { ByteRange } from '../core/units.js'
import type { RangeFollower } from '../filter/follow.js'
import { filterKeys, type FilterOutcome, setFilter } from '../filter/filter-change.js'
import { fromTable, totalBytes, union } from '../filter/ranges.js'
import type { Addon } from '../native/binding.js'
import { policyOf } from './group-preparation.js'
import type { OpenVolume } from './open-volumes.js'

/** Throws FilterError, with nothing changed, when the device cannot fulfil it. `dryRun`: changes nothing in any case. */
export async function changeFilter(
  addon: Pick<Addon, 'leftOut'>,
  volume: Pick<OpenVolume, 'config' | 'facts' | 'follower' | 'handle'>,
  filter: FilterConfig,
  dryRun: boolean,
): Promise<FilterOutcome> {
  const { config, facts, follower, handle } = volume
  const leftOut = async (): Promise<ByteRange[]> => fromTable(await addon.leftOut(handle))
  const before = await leftOut()
  const { after, warnings } = dryRun
    ? await preview(follower, filter)
    : { warnings: await follower.change(policyOf(filter)), after: await leftOut() }
  if (!dryRun) setFilter(config, filter)
  return {
    inForce: !dryRun,
    keys: filterKeys(filter),
    sizeBytes: Number(facts.sizeBytes),
    leftOutBytes: Number(totalBytes(after)),
    enteringBytes: bytesOf(before, after),
    leavingBytes: bytesOf(after, before),
    warnings,
  }
}

/** Of files in very many pieces `after` may hold what lies between them, too. */
async function preview(
  follower: RangeFollower,
  filter: FilterConfig,
): Promise<{ after: ByteRange[]; warnings: string[] }> {
  const warnings: string[] = []
  const other = follower.withPolicy(policyOf(filter), (_, message) => void warnings.push(message))
  try {
    const { excluded } = await other.start()
    return { after: fromTable(excluded), warnings }
  } finally {
    await other.close()
  }
}

/** What the one has and the other has not. */
function bytesOf(one: readonly ByteRange[], other: readonly ByteRange[]): number {
  return Number(totalBytes(union(one, other)) - totalBytes(other))
}
