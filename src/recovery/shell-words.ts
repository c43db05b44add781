/** Words of a command line as a POSIX shell reads and writes them, without expansions. */
import { UsageError } from '../core/errors.js'

/** Quotes and backslashes as in a shell; a quote that is not closed is refused. */
export function splitWords(line: string): string[] {
  const words: string[] = []
  let word: string | undefined
  let quote = ''
  for (let index = 0; index < line.length; index++) {
    const character = line.charAt(index)
    const next = line.charAt(index + 1)
    if (character === '\\' && quote !== "'" && (quote === '' || '\\"$`'.includes(next)) && next !== '') {
      word = (word ?? '') + next
      index++
    } else if (quote !== '' && character === quote) quote = ''
    else if (quote !== '') word = (word ?? '') + character
    else if (character === "'" || character === '"') {
      quote = character
      word ??= ''
    } else if (!/\s/.test(character)) word = (word ?? '') + character
    else if (word !== undefined) {
      words.push(word)
      word = undefined
    }
  }
  if (quote !== '') throw new UsageError(`'${line}': a quote (${quote}) is not closed`)
  return word === undefined ? words : [...words, word]
}

export const quoteWord = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
