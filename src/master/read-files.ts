/** The addon's reading of a device's file systems, as the filter takes it. */
import type { FileReading } from '../filter/live-files.js'
import type { Addon } from '../native/binding.js'

export type ReadingCalls = 'readFilesystems' | 'forgetReading' | 'makeWatches' | 'forgetWatches'

export async function readFiles(
  addon: Pick<Addon, ReadingCalls>,
  path: string,
  followed: boolean,
): Promise<FileReading> {
  const { reading, contents } = await addon.readFilesystems(path, followed)
  return {
    contents,
    makeWatches: (leftOut, whole, rules, rangesMax, holds) =>
      addon.makeWatches(reading, leftOut, whole, rules, rangesMax, holds),
    forgetWatches: watches => addon.forgetWatches(watches),
    forget: () => addon.forgetReading(reading),
  }
}
