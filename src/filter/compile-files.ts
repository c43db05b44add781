/**
 * From rules for files, and what the device holds, to the files that they leave out, and an account of it.
 *
 *   names -> which rules match -> per file: left out by all of its names?
 *
 * Guarantees: what is left out are files that are left out by every name they have. All else is replicated: what is not in
 * a listing, files that are held, and all of a file system that could not be read whole.
 * Gives the thread away again and again: a listing may have millions of names.
 */
import type { FileListing, FileSystemContent } from '../native/binding.js'
import type { FileRule } from './file-rules.js'
import { wholeDirectories } from './whole-directories.js'

export interface NamedFile {
  path: string
  bytes: number
}

export interface RuleAccount {
  rule: string
  kind: FileRule['kind']
  /** That it matches by a name. */
  files: number
  /** exclude: what it leaves out, also when another rule does too. only: what it chooses. Bytes of data on the device. */
  bytes: number
  /** exclude: files that it matches and that are replicated all the same. */
  heldFiles: number
  heldBytes: number
  /** The largest of `files`, at most `largestMax`. */
  largest: NamedFile[]
}

export interface FileSystemAccount {
  partition: number
  logicalVolume: string
  kind: string
  label: string
  sizeBytes: number
  blockBytes: number
  /** Why all of it is replicated; '': the rules apply. */
  replicatedBecause: string
  files: number
  fileBytes: number
  leftOutFiles: number
  leftOutBytes: number
  /** What the figures are to be read with. */
  remarks: string[]
}

export interface FileAccount {
  fileSystems: FileSystemAccount[]
  rules: RuleAccount[]
}

export interface CompiledFiles {
  account: FileAccount
  /** For each file system of which a rule speaks: one byte a file, 0 or which of `leftOutBy`, from 1 on; undefined: none can be. */
  leftOut: (Uint8Array | undefined)[]
  /** Where that is not undefined: one byte a directory, not 0: all that comes into it is left out, too. */
  whole: (Uint8Array | undefined)[]
  /** The rules, and last, as '', that no rule of --only-files matches. */
  leftOutBy: string[]
}

/** All of a volume, for whoever asks what rules would do. */
export interface FilterExplanation extends FileAccount {
  sizeBytes: number
  /** By --replicate and --exclude, which are in force. */
  leftOutByRanges: number
  /** By the rules for files, of what these leave. */
  leftOutByFiles: number
  /** Pieces that the rules for files leave out, where these can be in force. */
  rangeCount: number
  /** By the rules for files that are in force. */
  leftOutNow: number
}

export const largestMax = 10
/** Stands for a rule where a file is left out because no rule of --only-files matches. */
export const notChosen = ''
const filesAtOnce = 2000
const [fileWords, linkWords, directoryWords] = [6, 4, 3]

export async function compileFiles(
  rules: readonly FileRule[],
  contents: readonly FileSystemContent[],
): Promise<CompiledFiles> {
  const accounts = rules.map(({ text, kind }): RuleAccount => ({
    ...{ rule: text, kind, files: 0, bytes: 0, heldFiles: 0, heldBytes: 0, largest: [] },
  }))
  const fileSystems: FileSystemAccount[] = []
  const leftOut: (Uint8Array | undefined)[] = []
  const whole: (Uint8Array | undefined)[] = []
  for (const content of contents) {
    const account = accountOf(content)
    fileSystems.push(account)
    leftOut.push(undefined)
    whole.push(undefined)
    if (content.listing === undefined) continue
    const applying = rules.flatMap((rule, index) => {
      const own = accounts[index]
      const applies = rule.partition === undefined || rule.partition === content.partition
      return applies && own !== undefined ? [{ rule, number: index + 1, account: own }] : []
    })
    const chosen = rules.some(rule => rule.kind === 'only')
    const names = new Names(content.listing)
    const unchosen = chosen ? rules.length + 1 : 0
    const decided = await decide(content.listing, names, applying, unchosen, account)
    // With none of them now there may be some tomorrow.
    if (applying.length === 0 || account.replicatedBecause !== '') continue
    leftOut[leftOut.length - 1] = decided
    whole[whole.length - 1] = names.wholeDirectories(applying, unchosen)
  }
  return {
    account: { fileSystems, rules: accounts },
    leftOut,
    whole,
    leftOutBy: [...rules.map(({ text }) => text), notChosen],
  }
}

function accountOf({ listing, ...content }: FileSystemContent): FileSystemAccount {
  const { partition, logicalVolume, kind, label, sizeBytes, blockBytes } = content
  const remarks: string[] = []
  let replicatedBecause = content.unread
  if (listing !== undefined && listing.problems > 0)
    replicatedBecause = `${listing.problems} things in it could not be read, the first: ${listing.firstProblem}; if it is in use, ask again, else run fsck`
  if (listing?.journalPending === true)
    remarks.push(
      listing.journalUnread === ''
        ? 'it is in use, or was not left cleanly: this is the state of its last commit'
        : `it is in use, or was not left cleanly: this is what had been written back of its metadata (${listing.journalUnread})`,
    )
  if (listing !== undefined && listing.namelessFiles > 0)
    remarks.push(`${listing.namelessFiles} files without a name (deleted while open) are replicated`)
  return {
    ...{ partition, logicalVolume, kind, label, sizeBytes, blockBytes, replicatedBecause, remarks },
    ...{ files: 0, fileBytes: 0, leftOutFiles: 0, leftOutBytes: 0 },
  }
}

interface ApplyingRule {
  rule: FileRule
  /** In leftOutBy, from 1 on. */
  number: number
  account: RuleAccount
}

/**
 * One byte a file: 0, or the number of the first rule that leaves it out by any name, or else `unchosen`, which is 0 without
 * rules of --only-files. Counts into the accounts on the way.
 */
async function decide(
  listing: FileListing,
  names: Names,
  rules: readonly ApplyingRule[],
  unchosen: number,
  account: FileSystemAccount,
): Promise<Uint8Array> {
  const { files } = listing
  const leftOut = new Uint8Array(files.length / fileWords)
  const matched = new Set<ApplyingRule>()
  for (let file = 0; file < leftOut.length; file++) {
    if (file % filesAtOnce === filesAtOnce - 1) await pause()
    const [bytes = 0, , held = 0, firstLink = 0, links = 0] = files.subarray(
      file * fileWords + 1,
      (file + 1) * fileWords,
    )
    if (links === 0) continue
    account.files++
    account.fileBytes += bytes
    let wanted = false
    let number = Infinity
    let path = ''
    matched.clear()
    for (let link = firstLink; link < firstLink + links; link++) {
      path = names.pathOf(link)
      let excluded = false
      let only = unchosen === 0
      for (const one of rules) {
        if (!one.rule.matches(path)) continue
        matched.add(one)
        if (one.rule.kind === 'exclude') {
          excluded = true
          number = Math.min(number, one.number)
        } else {
          only = true
        }
      }
      wanted ||= only && !excluded
    }
    const out = !wanted && held === 0 && account.replicatedBecause === ''
    for (const one of matched) count(one.account, { path, bytes }, out)
    if (!out) continue
    leftOut[file] = Number.isFinite(number) ? number : unchosen
    account.leftOutFiles++
    account.leftOutBytes += bytes
  }
  return leftOut
}

function count(account: RuleAccount, file: NamedFile, out: boolean): void {
  const { largest } = account
  account.files++
  if (account.kind === 'exclude' && !out) {
    account.heldFiles++
    account.heldBytes += file.bytes
  } else if (account.kind === 'only' ? !out : out) {
    account.bytes += file.bytes
  }
  if (largest.length === largestMax && (largest.at(-1)?.bytes ?? 0) >= file.bytes) return
  largest.push(file)
  largest.sort((a, b) => b.bytes - a.bytes)
  largest.length = Math.min(largest.length, largestMax)
}

/** Puts paths together; those of directories are kept. */
class Names {
  readonly #listing: FileListing
  readonly #directories: string[] = ['/']
  readonly #decoder = new TextDecoder()

  constructor(listing: FileListing) {
    this.#listing = listing
    const { directories } = listing
    for (let at = directoryWords; at < directories.length; at += directoryWords) {
      const [parent = 0, start = 0, end = 0] = directories.subarray(at, at + directoryWords)
      this.#directories.push(`${this.#directories[parent] ?? '/'}${this.#name(start, end)}/`)
    }
  }

  wholeDirectories(rules: readonly ApplyingRule[], unchosen: number): Uint8Array {
    const parentOf = (directory: number): number => this.#listing.directories[directory * directoryWords] ?? 0
    const pathOf = (directory: number): string => this.#directories[directory] ?? '/'
    return wholeDirectories(this.#directories.length, parentOf, pathOf, rules, unchosen)
  }

  pathOf(link: number): string {
    const [, directory = 0, start = 0, end = 0] = this.#listing.links.subarray(link * linkWords, (link + 1) * linkWords)
    return (this.#directories[directory] ?? '/') + this.#name(start, end)
  }

  /** What is no UTF-8 has replacement characters, which `*` matches. */
  #name(start: number, end: number): string {
    return this.#decoder.decode(this.#listing.names.subarray(start, end))
  }
}

function pause(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}
