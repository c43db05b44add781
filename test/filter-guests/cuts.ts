/** What was seen of a standby: checked by e2fsck at once, and by a second guest at the end. */
import { openSync, writeSync, closeSync, ftruncateSync, rmSync } from 'node:fs'
import { execute, type Owner, type Scratch } from '../support/daemon.js'
import { runGuest } from '../support/guest.js'
import { fileSystemBytes } from './layouts.js'
import { isZero, type Model } from './model.js'
import { type Tap } from './tap.js'

/** A guest has 16 disks. */
const pairsMax = 8
const pieceBytes = 64 << 10

/**
 * What e2fsck says of a file system that is well, once its journal was replayed and deleted files are gone. (The kernel
 * writes the superblock's counts at the umount, and does not read them: they are the sums of the groups'.)
 */
const harmless = [
  /^$/,
  /^e2fsck \d/,
  /: recovering journal$/,
  /^Clearing orphaned inode /,
  /^Truncating orphaned inode /,
  /^Pass \d[A-Z]?: /,
  /extent tree .* could be (shorter|narrower)\. {2}Optimize\? yes$/,
  /FILE SYSTEM WAS MODIFIED/,
  /^Free (inodes|blocks) count wrong \(\d+, counted=\d+\)\. Fix\? yes$/,
  /\d+\/\d+ files .* \d+\/\d+ blocks$/,
]

interface Cut {
  when: string
  copy: string
  master: string
}

export class Cuts {
  wrong = 0
  count = 0
  leftOut = 0
  #waiting: Cut[] = []

  constructor(
    private readonly owner: Owner,
    private readonly files: Scratch,
    private readonly tap: Tap,
    private readonly model: Model,
    private readonly spoil: boolean,
  ) {}

  /** `isWhole`: nothing is behind. */
  async take(shown: Buffer, when: string, isWhole: boolean): Promise<void> {
    const { mark, content } = this.model.at(shown)
    if (isWhole && mark !== this.tap.mark) this.complain(`${when}: mark ${mark} is shown, and not ${this.tap.mark}`)
    const number = this.count++
    const cut = {
      when: `cut ${number}, ${when}, mark ${mark}`,
      copy: this.files.path(`${number}-copy.img`),
      master: this.files.path(`${number}-master.img`),
    }
    if (this.spoil) spoilOne(shown)
    writeSparse(cut.copy, shown)
    writeSparse(cut.master, content)
    const [ours, theirs] = [await check(cut.copy), await check(cut.master)]
    for (const line of theirs) if (!ours.includes(line)) this.owner.comment(`  ${cut.when}: only the master's: ${line}`)
    for (const line of ours) {
      if (theirs.includes(line)) this.owner.comment(`  ${cut.when}: both: ${line}`)
      else this.complain(`${cut.when}: e2fsck: ${line}`)
    }
    // In the middle of mke2fs the master has none either.
    const isOne = !theirs.some(line => line.startsWith('-fn'))
    this.owner.comment(`  ${cut.when}${isOne ? '' : ': no file system'}`)
    if (isOne) this.#waiting.push(cut)
  }

  /** In guests: mounted, and compared. */
  async judge(): Promise<void> {
    while (this.#waiting.length > 0) {
      const cuts = this.#waiting.splice(0, pairsMax)
      const disks = cuts.flatMap(cut => [cut.copy, cut.master])
      const output = await runGuest(this.owner, this.files, 'judge.sh', {
        parameters: [`pairs=${cuts.length}`, ...disks.map((path, index) => `ubd${index}r=${path}`)],
        limitMs: 300_000,
      })
      for (const [index, cut] of cuts.entries()) this.#heard(output, index, cut)
      if (this.owner.passing() && this.wrong === 0) for (const path of disks) rmSync(path)
    }
  }

  #heard(output: string, index: number, { when }: Cut): void {
    const lines = output.split(/\r?\n/).flatMap(line => {
      const mark = `GUEST: cut ${index}: `
      return line.startsWith(mark) ? [line.slice(mark.length).trim()] : []
    })
    const counted = lines
      .map(line => /^files (\d+), .* zeroes in them (\d+), wrong \d+$/.exec(line))
      .find(found => found)
    if (counted === undefined || counted === null) this.complain(`${when}: not compared: ${lines.join('; ')}`)
    this.leftOut = Math.max(this.leftOut, Number(counted?.[2]))
    for (const line of lines) {
      if (line.startsWith('WRONG ')) this.complain(`${when}: ${line.slice(6)}`)
      if (line.startsWith('database ') && line !== 'database ok') this.complain(`${when}: ${line}`)
    }
    this.owner.comment(`  ${when}: ${lines.filter(line => !line.startsWith('WRONG')).join('; ')}`)
  }

  complain(text: string): void {
    this.wrong++
    this.owner.comment(`WRONG ${text}`)
  }
}

/** What should not be said. */
async function check(image: string): Promise<string[]> {
  const said: string[] = []
  for (const flags of ['-fy', '-fn']) {
    const { code, stdout, stderr } = await execute('e2fsck', [flags, image])
    const lines = `${stdout}${stderr}`.replaceAll(image, 'IMAGE').replaceAll('.\nFix? ', '. Fix? ').split('\n')
    const strange = lines.filter(line => !harmless.some(pattern => pattern.test(line)))
    if (flags === '-fn' && code !== 0) strange.push(`-fn: exit code ${code}`)
    said.push(...strange)
  }
  return said
}

function writeSparse(path: string, content: Buffer): void {
  const file = openSync(path, 'w')
  ftruncateSync(file, fileSystemBytes)
  for (let at = 0; at < fileSystemBytes; at += pieceBytes) {
    const piece = content.subarray(at, at + pieceBytes)
    if (!isZero(piece)) writeSync(file, piece, 0, piece.length, at)
  }
  closeSync(file)
}

/** As a master would that takes a chosen file for another one: a block of it is not there. */
function spoilOne(copy: Buffer): void {
  const at = copy.indexOf('/run/disk/srv/before/3 ', fileSystemBytes / 16)
  if (at < 0) throw new Error('there is nothing to spoil')
  copy.fill(0, at, at + 1024)
}
