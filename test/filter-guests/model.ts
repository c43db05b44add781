/** What the master had at the cut that a copy shows: the writes of the tap, in their order. */
import { type Tap, type Write } from './tap.js'

const grain = 1024

export class Model {
  #mark = 0

  constructor(
    private readonly tap: Tap,
    /** As of the last cut that was looked at. */
    private readonly content: Buffer,
  ) {}

  /**
   * Writes that were under way at the cut are in it when the copy shows them; where the copy shows zeroes it is not told
   * whether it has them or leaves them out, and the newest stands.
   */
  at(copy: Buffer): { mark: number; content: Buffer } {
    const mark = this.tap.markIn(copy)
    if (mark < this.#mark) throw new Error(`the copy shows mark ${mark}, after it has shown ${this.#mark} (G2)`)
    this.#mark = mark
    const { writes } = this.tap
    let certain = 0
    while (certain < writes.length && writes[certain]!.doneBefore < mark) certain++
    for (const write of writes.splice(0, certain)) apply(write, this.content)
    const content = Buffer.from(this.content)
    const open = writes.filter(write => write.sentAfter <= mark)
    for (const write of open) if (write.doneBefore < mark) apply(write, content)
    const doubtful = open.filter(write => write.doneBefore >= mark)
    for (const piece of new Set(doubtful.flatMap(pieces))) {
      const found = versions(content.subarray(piece, piece + grain), piece, doubtful)
      const shown = copy.subarray(piece, piece + grain)
      const version = found.findLast(candidate => candidate.equals(shown))
      if (version !== undefined) version.copy(content, piece)
      else if (isZero(shown)) found.at(-1)!.copy(content, piece)
      else throw new Error(`${grain} bytes at ${piece} of the copy that shows mark ${mark} were never written there`)
    }
    return { mark, content }
  }
}

function apply({ offset, bytes, data }: Write, content: Buffer): void {
  if (data === undefined) content.fill(0, offset, offset + bytes)
  else data.copy(content, offset)
}

const pieces = ({ offset, bytes }: Write): number[] => {
  const first = Math.floor(offset / grain)
  return Array.from({ length: Math.ceil((offset + bytes) / grain) - first }, (_, index) => (first + index) * grain)
}

/** Of a piece: as it was, and after each write. */
function versions(before: Buffer, at: number, writes: Write[]): Buffer[] {
  const found = [Buffer.from(before)]
  for (const write of writes) {
    const [start, end] = [Math.max(write.offset, at), Math.min(write.offset + write.bytes, at + grain)]
    if (start >= end) continue
    const next = Buffer.from(found.at(-1)!)
    if (write.data === undefined) next.fill(0, start - at, end - at)
    else write.data.copy(next, start - at, start - write.offset, end - write.offset)
    found.push(next)
  }
  return found
}

/** Its first byte is, and each is what the one before it is: no call for each byte. */
export const isZero = (bytes: Buffer): boolean => bytes[0] === 0 && bytes.subarray(1).equals(bytes.subarray(0, -1))
