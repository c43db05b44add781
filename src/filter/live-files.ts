/**
 * The rules for files that are in force: of which file systems a listing may be believed while clients write, and whether
 * the device can fulfil the rules at all.
 *
 *   a swap area     what its header says holds until somebody writes to the header (FileListing.holdsUntil)
 *   ext2/3/4        files come and go with every commit: nothing of them is left out
 *
 * Guarantees: whatever moves or remakes what is left out here touches a range of `watchedFor()`, or is found by the
 * follower's glances; what cannot be believed has no listing, and so is replicated.
 */
import type { ByteRange } from '../core/units.js'
import type { FileSystemContent } from '../native/binding.js'
import { compileFiles } from './compile-files.js'
import type { FileAccount, FileSystemAccount } from './compile-files.js'
import { watchedRanges } from './compile.js'
import type { FileRule } from './file-rules.js'
import { FilterError } from './policy.js'
import type { FilePolicy } from './policy.js'
import { normalize } from './ranges.js'
import type { PartitionTable } from './table.js'

const notFollowed = 'its files come and go, and are not followed yet'

/** As they are, and what the rules leave out of those that hold. */
export interface LiveFiles {
  account: FileAccount
  /** Where a write may change that. */
  watched: ByteRange[]
}

export async function compileLiveFiles(
  rules: readonly FileRule[],
  contents: readonly FileSystemContent[],
  table: PartitionTable | undefined,
  sizeBytes: bigint,
): Promise<LiveFiles> {
  const held = contents.map(onlyLasting)
  const account = await compileFiles(rules, held)
  const used = held.filter((_, index) => (account.fileSystems[index]?.leftOutBytes ?? 0) > 0)
  return { account, watched: used.length === 0 ? [] : watchedFor(used, table, sizeBytes) }
}

function onlyLasting(content: FileSystemContent): FileSystemContent {
  const { listing, ...place } = content
  if (listing === undefined || isFollowed(content)) return content
  return { ...place, unread: notFollowed }
}

/** Whether rules for its files can be in force. */
function isFollowed({ listing }: FileSystemContent): boolean {
  return listing !== undefined && listing.holdsUntil.length > 0
}

/** For an account of all files: where rules for them cannot be in force. */
export function remarkUnfollowed(
  { fileSystems }: Pick<FileAccount, 'fileSystems'>,
  contents: readonly FileSystemContent[],
): void {
  for (const [index, content] of contents.entries())
    if (content.listing !== undefined && !isFollowed(content))
      fileSystems[index]?.remarks.push(`${notFollowed}: no rule for them can be in force, all of it is replicated`)
}

function watchedFor(
  used: readonly FileSystemContent[],
  table: PartitionTable | undefined,
  sizeBytes: bigint,
): ByteRange[] {
  const places = used.flatMap(({ locatedBy, listing }) => [
    ...placesOf(locatedBy),
    ...placesOf(listing?.holdsUntil ?? new Float64Array()),
  ])
  // Without a table the file system begins where one would be written to.
  return normalize([...places, ...(table === undefined ? [] : watchedRanges(table, sizeBytes))])
}

function placesOf(pairs: Float64Array): ByteRange[] {
  const places: ByteRange[] = []
  for (let at = 0; at + 1 < pairs.length; at += 2) {
    const start = BigInt(pairs[at] ?? 0)
    places.push({ start, end: start + BigInt(pairs[at + 1] ?? 0) })
  }
  return places
}

/**
 * At start, from a reading of everything: throws FilterError for a rule that cannot be kept, unless the policy has such
 * file systems replicated whole. Returns what the operator is to be told.
 */
export async function checkFiles(
  { rules, fallback }: FilePolicy,
  contents: readonly FileSystemContent[],
  device: string,
): Promise<string[]> {
  const account = await compileFiles(rules, contents)
  const problems = [
    ...rules.flatMap(rule => unkept(rule, account.fileSystems, device)),
    ...unfollowed(account, contents),
  ]
  const [first] = problems
  if (first !== undefined && fallback === 'refuse')
    throw new FilterError('FILES_NOT_FOLLOWED', `${first}; --filter-fallback all starts, and replicates that whole`)
  const idle = account.rules.filter(({ files }) => files === 0)
  return [
    ...problems.map(problem => `${problem}: replicated whole`),
    ...idle.map(({ rule, kind }) => `--${kind}-files '${rule}' matches nothing`),
  ]
}

/** A rule whose file systems cannot be read. */
function unkept(rule: FileRule, fileSystems: readonly FileSystemAccount[], device: string): string[] {
  const flag = `--${rule.kind}-files '${rule.text}'`
  const meant = fileSystems.filter(({ partition }) => rule.partition === undefined || partition === rule.partition)
  if (meant.length === 0) {
    const what = rule.partition === undefined ? 'file system' : `partition ${rule.partition}`
    return [`${flag}: ${device} has no ${what}`]
  }
  const [unread] = meant.filter(({ replicatedBecause }) => replicatedBecause !== '')
  if (unread === undefined || meant.some(({ replicatedBecause }) => replicatedBecause === '')) return []
  return [`${flag}: ${nameOf(unread)} on ${device}: ${unread.replicatedBecause}`]
}

/** File systems out of which the rules leave files, and that cannot be followed. */
function unfollowed({ fileSystems }: FileAccount, contents: readonly FileSystemContent[]): string[] {
  return fileSystems.flatMap((one, index) => {
    const content = contents[index]
    if (one.leftOutFiles === 0 || content === undefined || isFollowed(content)) return []
    return [`the rules leave ${one.leftOutFiles} files out of ${nameOf(one)}: ${notFollowed}`]
  })
}

export function nameOf({ partition, logicalVolume, kind }: FileSystemAccount): string {
  if (logicalVolume !== '') return `volume ${logicalVolume} (${kind})`
  return partition === 0 ? `the whole device (${kind})` : `partition ${partition} (${kind})`
}
