/**
 * On which line of a TOML text a key stands, for error messages: smol-toml keeps no positions. The text must already
 * have been parsed without error. A key inside an inline table is found at the line where the outermost key begins.
 */

export type KeyPath = readonly (string | number)[]

interface Entry {
  path: (string | number)[]
  line: number
}

/** The line (from 1) of the longest part of `path` that is written down, or undefined when not even its first is. */
export function lineOfKey(text: string, path: KeyPath): number | undefined {
  const entries = scan(text)
  for (let length = path.length; length > 0; length--) {
    const wanted = path.slice(0, length)
    const found = entries.find(entry => startsWith(entry.path, wanted))
    if (found !== undefined) return found.line
  }
  return undefined
}

const startsWith = (path: KeyPath, prefix: KeyPath): boolean => prefix.every((part, index) => path[index] === part)

/** Every table header and every `key =`, in order. */
function scan(text: string): Entry[] {
  const entries: Entry[] = []
  const arrayLengths = new Map<string, number>()
  let table: (string | number)[] = []
  let rest = new ValueState()
  text.split('\n').forEach((content, index) => {
    if (rest.open) {
      rest.feed(content)
      return
    }
    const header = /^\s*(\[\[?)\s*(.*?)\s*\]\]?\s*(?:#.*)?$/.exec(content)
    if (header !== null) {
      table = tablePath(splitKey(header[2] ?? ''), header[1] === '[[', arrayLengths)
      entries.push({ path: table, line: index + 1 })
      return
    }
    const equals = endOfKey(content)
    if (equals === undefined) return
    entries.push({ path: [...table, ...splitKey(content.slice(0, equals))], line: index + 1 })
    rest = new ValueState()
    rest.feed(content.slice(equals + 1))
  })
  return entries
}

/** Puts in the indices of arrays of tables: [group, volume] becomes [group, 1, volume, 0]. */
function tablePath(keys: string[], isArray: boolean, arrayLengths: Map<string, number>): (string | number)[] {
  const path: (string | number)[] = []
  keys.forEach((key, index) => {
    path.push(key)
    const name = JSON.stringify(path)
    const length = arrayLengths.get(name) ?? 0
    if (isArray && index === keys.length - 1) {
      arrayLengths.set(name, length + 1)
      path.push(length)
    } else if (length > 0) {
      path.push(length - 1)
    }
  })
  return path
}

/** Index of the `=` that ends the key, outside of quotes. */
function endOfKey(content: string): number | undefined {
  const match = /^\s*(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'|\s|\.)+=/.exec(content)
  return match === null ? undefined : match[0].length - 1
}

function splitKey(text: string): string[] {
  const parts = text.match(/[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'/g) ?? []
  return parts.map(part => {
    if (part.startsWith('"')) return JSON.parse(part) as string
    return part.startsWith("'") ? part.slice(1, -1) : part
  })
}

/** Whether a value goes on in the next line: brackets are open or a multi-line string is. */
class ValueState {
  open = false
  private depth = 0
  private quote = ''

  feed(content: string): void {
    let position = 0
    while (position < content.length) position = this.step(content, position)
    if (this.quote.length === 1) this.quote = ''
    this.open = this.depth > 0 || this.quote !== ''
  }

  /** Consumes one token at `position`, returns where the next begins. */
  private step(content: string, position: number): number {
    const character = content[position] ?? ''
    if (this.quote !== '') {
      if (character === '\\' && this.quote.startsWith('"')) return position + 2
      if (!content.startsWith(this.quote, position)) return position + 1
      const length = this.quote.length
      this.quote = ''
      return position + length
    }
    if (character === '#') return content.length
    if (character === '"' || character === "'") {
      const triple = character.repeat(3)
      this.quote = content.startsWith(triple, position) ? triple : character
      return position + this.quote.length
    }
    if (character === '[' || character === '{') this.depth++
    if (character === ']' || character === '}') this.depth--
    return position + 1
  }
}
