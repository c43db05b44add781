/**
 * The rules for files that are in force: which file systems can be followed while clients write, and whether the device
 * can fulfil the rules at all.
 *
 *   reading -> compile-files.ts: which files are left out -> makeWatches: of which file systems that can be kept right
 *
 * Guarantees: what cannot be followed is replicated whole, and the account says why. What moves a file system, or puts
 * another one in its place, touches a range of `watched`, or is seen by its watch.
 */
import type { ByteRange } from '../core/units.js'
import type { FileSystemContent, MadeWatches } from '../native/binding.js'
import { compileFiles } from './compile-files.js'
import type { CompiledFiles, FileAccount, FileSystemAccount } from './compile-files.js'
import { watchedRanges } from './compile.js'
import type { FileRule } from './file-rules.js'
import { FilterError } from './policy.js'
import type { FilePolicy } from './policy.js'
import { fromTable, normalize } from './ranges.js'
import type { PartitionTable } from './table.js'

/** What the addon has read of a device, and keeps until it is forgotten. */
export interface FileReading {
  contents: readonly FileSystemContent[]
  makeWatches: (
    leftOut: readonly (Uint8Array | undefined)[],
    whole: readonly (Uint8Array | undefined)[],
    leftOutBy: readonly string[],
    rangesMax: number,
    holds: boolean,
  ) => Promise<MadeWatches>
  forgetWatches: (watches: number) => void
  forget: () => void
}

export interface LiveFiles {
  account: FileAccount
  /** For setRanges(). */
  watches: number
  /** When no setRanges() gets them. Any number of times. */
  forget: () => void
  /** What the watches leave out. */
  bytes: number
  rangeCount: number
  /** Holds all of it, and may hold more. */
  around: ByteRange[]
  /** Where a write may move or remake it. */
  watched: ByteRange[]
  /** Those that the watches follow, in their order. */
  followed: FileSystemContent[]
  /** Out of which the rules leave files, and that cannot be followed. */
  unfollowed: string[]
}

/** What is left out is stored as at most so many ranges; beyond, the group's file also names what lies between. */
export const rangesMax = 32_768

/** `held`: why this one is not to be followed now; ''. */
export async function compileLiveFiles(
  rules: readonly FileRule[],
  reading: FileReading,
  table: PartitionTable | undefined,
  sizeBytes: bigint,
  held: (content: FileSystemContent) => string = () => '',
): Promise<LiveFiles> {
  const contents = reading.contents.map(content => unread(content, held(content)))
  let compiled = await compileFiles(rules, contents)
  const holds = rules.some(({ kind }) => kind === 'only')
  const made = await reading.makeWatches(compiled.leftOut, compiled.whole, compiled.leftOutBy, rangesMax, holds)
  const lost = notFollowed(compiled, made)
  if (lost.some(why => why !== ''))
    compiled = await compileFiles(
      rules,
      contents.map((content, index) => unread(content, lost[index] ?? '')),
    )
  const { account } = compiled
  const unfollowed = lost.flatMap((why, index) => {
    const one = account.fileSystems[index]
    return why === '' || one === undefined ? [] : [`the rules leave files out of ${nameOf(one)}: ${why}`]
  })
  const followed = contents.filter((_, index) => made.fileSystems[index]?.followed === true)
  for (const [index, one] of account.fileSystems.entries()) keepTo(one, made.fileSystems[index])
  return {
    account,
    watches: made.watches,
    forget: () => reading.forgetWatches(made.watches),
    bytes: made.bytes,
    rangeCount: made.rangeCount,
    around: fromTable(made.around),
    watched: followed.length === 0 ? [] : watchedFor(followed, table, sizeBytes),
    followed,
    unfollowed,
  }
}

function unread({ listing, ...place }: FileSystemContent, why: string): FileSystemContent {
  if (listing === undefined) return place
  return why === '' ? { ...place, listing } : { ...place, unread: why }
}

/** For each file system out of which files are left: why it cannot be followed; else ''. */
function notFollowed({ account }: CompiledFiles, { fileSystems }: MadeWatches): string[] {
  return account.fileSystems.map(({ leftOutFiles }, index) => {
    const one = fileSystems[index]
    return leftOutFiles === 0 || one?.followed === true ? '' : (one?.why ?? '')
  })
}

/** What is in force may be less than the files have: some cannot be followed one by one. */
function keepTo(account: FileSystemAccount, outcome: MadeWatches['fileSystems'][number] | undefined): void {
  if (outcome?.followed !== true || outcome.bytes >= account.leftOutBytes) return
  const less = account.leftOutBytes - outcome.bytes
  account.remarks.push(`${less} bytes of files that cannot be followed while they are in use are replicated`)
  account.leftOutBytes = outcome.bytes
}

/** For an account of all files: where rules for them cannot be in force. Returns how many ranges they are where they can. */
export async function remarkUnfollowed(compiled: CompiledFiles, reading: FileReading): Promise<number> {
  const { account, leftOut, whole, leftOutBy } = compiled
  const made = await reading.makeWatches(leftOut, whole, leftOutBy, rangesMax, false)
  reading.forgetWatches(made.watches)
  for (const [index, why] of notFollowed(compiled, made).entries())
    if (why !== '')
      account.fileSystems[index]?.remarks.push(`${why}: no rule for them can be in force, all of it is replicated`)
  return made.rangeCount
}

function watchedFor(
  used: readonly FileSystemContent[],
  table: PartitionTable | undefined,
  sizeBytes: bigint,
): ByteRange[] {
  const places = used.flatMap(({ locatedBy }) => placesOf(locatedBy))
  // Without a table the file system begins where one would be written to: its watch sees that.
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
 * At start: throws FilterError for a rule that cannot be kept, unless the policy has such file systems replicated whole.
 * Returns what the operator is to be told.
 */
export function checkFiles(
  { rules, fallback }: FilePolicy,
  { account, unfollowed }: LiveFiles,
  device: string,
): string[] {
  const problems = [...rules.flatMap(rule => unkept(rule, account.fileSystems, device)), ...unfollowed]
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
  const [unreadOne] = meant.filter(({ replicatedBecause }) => replicatedBecause !== '')
  if (unreadOne === undefined || meant.some(({ replicatedBecause }) => replicatedBecause === '')) return []
  return [`${flag}: ${nameOf(unreadOne)} on ${device}: ${unreadOne.replicatedBecause}`]
}

export function nameOf({
  partition,
  logicalVolume,
  kind,
}: Pick<FileSystemAccount, 'partition' | 'logicalVolume' | 'kind'>): string {
  if (logicalVolume !== '') return `volume ${logicalVolume} (${kind})`
  return partition === 0 ? `the whole device (${kind})` : `partition ${partition} (${kind})`
}
