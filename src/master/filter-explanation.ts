/**
 * What rules for files would leave out of a volume, from its file systems as they are now; without rules, those of the
 * volume. Nothing is replicated in another way because of it. One at a time in a process: a reading may keep a gibibyte.
 */
import { NativeError, OperationError } from '../core/errors.js'
import { compileFiles } from '../filter/compile-files.js'
import type { FilterExplanation } from '../filter/compile-files.js'
import type { FileRule } from '../filter/file-rules.js'
import { remarkUnfollowed } from '../filter/live-files.js'
import { fromTable, totalBytes, union } from '../filter/ranges.js'
import type { Addon } from '../native/binding.js'
import { policyOf } from './group-preparation.js'
import type { OpenVolume } from './open-volumes.js'

let isReading = false

export async function explainFilter(
  addon: Pick<Addon, 'filesystems'>,
  volume: Pick<OpenVolume, 'config' | 'facts' | 'follower'>,
  asked: readonly FileRule[],
): Promise<FilterExplanation> {
  if (isReading) throw new OperationError('BUSY', 'filter: file systems are being read for somebody else; ask again')
  isReading = true
  const rules = asked.length > 0 ? asked : (policyOf(volume.config).files?.rules ?? [])
  try {
    const { device, name } = volume.config
    const contents = await addon.filesystems(device).catch((error: unknown) => {
      throw new NativeError(`filter: volume '${name}'`, error)
    })
    const { ranges, ...account } = await compileFiles(rules, contents)
    remarkUnfollowed(account, contents)
    const { byRanges = new BigUint64Array(), excluded = byRanges } = volume.follower.current ?? {}
    const inForce = fromTable(byRanges)
    const leftOutByRanges = totalBytes(inForce)
    return {
      ...account,
      sizeBytes: Number(volume.facts.sizeBytes),
      leftOutByRanges: Number(leftOutByRanges),
      leftOutByFiles: Number(totalBytes(union(inForce, ranges)) - leftOutByRanges),
      rangeCount: ranges.length,
      leftOutNow: Number(totalBytes(fromTable(excluded)) - leftOutByRanges),
    }
  } finally {
    isReading = false
  }
}
