/**
 * Reads the addon's counter pages: shared memory that native threads write, so a read makes no call into the addon.
 *
 * Each word is read atomically; a page as a whole is not one moment, so that a watermark may be a little newer than
 * one that was read before it.
 */
import type { Addon } from './binding.js'

export type PageKind = 'volume' | 'group' | 'replica'

/** Counters of one page by the names of Addon.counterLayout(). */
export type Counters = Record<string, bigint>

const pageWords = 512

export class CounterReader {
  readonly #words: BigUint64Array
  readonly #layout: Record<PageKind, [name: string, offset: number][]>
  readonly #offsets: Record<PageKind, Record<string, number>>

  constructor(addon: Pick<Addon, 'counters' | 'counterLayout'>) {
    this.#words = new BigUint64Array(addon.counters())
    const layout = addon.counterLayout()
    this.#offsets = layout
    this.#layout = {
      volume: Object.entries(layout.volume),
      group: Object.entries(layout.group),
      replica: Object.entries(layout.replica),
    }
  }

  /** One of them, which costs what one costs: a page has hundreds. 0 for a name that is none. */
  one(kind: PageKind, page: number, name: string): bigint {
    return this.word(kind, page, name)()
  }

  /** The same for who looks again and again: the name is looked up once. */
  word(kind: PageKind, page: number, name: string): () => bigint {
    const offset = this.#offsets[kind][name]
    if (offset === undefined) return () => 0n
    const [words, at] = [this.#words, page * pageWords + offset]
    return () => Atomics.load(words, at)
  }

  /** Throws RangeError for a page outside the mapping. */
  read(kind: PageKind, page: number): Counters {
    const counters: Counters = {}
    for (const [name, offset] of this.#layout[kind])
      counters[name] = Atomics.load(this.#words, page * pageWords + offset)
    return counters
  }
}
