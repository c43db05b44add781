/**
 * What rules for files would leave out of a volume, from its file systems as they are now; without rules, those of the
 * volume. Nothing is replicated in another way because of it. One at a time in a process: a reading may keep a gibibyte.
 */
import { NativeError, OperationError } from '../core/errors.js'
import { compileFiles } from '../filter/compile-files.js'
import type { FilterExplanation } from '../filter/compile-files.js'
import type { FileRule } from '../filter/file-rules.js'
import { remarkUnfollowed } from '../filter/live-files.js'
import { fromTable, totalBytes } from '../filter/ranges.js'
import type { Addon } from '../native/binding.js'
import { policyOf } from './group-preparation.js'
import { readFiles } from './read-files.js'
import type { ReadingCalls } from './read-files.js'
import type { OpenVolume } from './open-volumes.js'

let isReading = false

export async function explainFilter(
  addon: Pick<Addon, ReadingCalls | 'leftOut'>,
  volume: Pick<OpenVolume, 'config' | 'facts' | 'follower' | 'handle'>,
  asked: readonly FileRule[],
): Promise<FilterExplanation> {
  if (isReading) throw new OperationError('BUSY', 'filter: file systems are being read for somebody else; ask again')
  isReading = true
  const rules = asked.length > 0 ? asked : (policyOf(volume.config).files?.rules ?? [])
  try {
    const { device, name } = volume.config
    const reading = await readFiles(addon, device, false).catch((error: unknown) => {
      throw new NativeError(`filter: volume '${name}'`, error)
    })
    try {
      const compiled = await compileFiles(rules, reading.contents)
      const rangeCount = await remarkUnfollowed(compiled, reading)
      const leftOutByRanges = Number(totalBytes(fromTable(volume.follower.current?.byRanges ?? new BigUint64Array())))
      const leftOut = totalBytes(fromTable(await addon.leftOut(volume.handle)))
      return {
        ...compiled.account,
        sizeBytes: Number(volume.facts.sizeBytes),
        leftOutByRanges,
        leftOutByFiles: compiled.account.fileSystems.reduce((sum, { leftOutBytes }) => sum + leftOutBytes, 0),
        rangeCount,
        leftOutNow: Number(leftOut) - leftOutByRanges,
      }
    } finally {
      reading.forget()
    }
  } finally {
    isReading = false
  }
}
