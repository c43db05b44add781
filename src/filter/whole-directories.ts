/**
 * Directories in which everything is left out, whatever its name: what comes into them need not be matched by the rules, so that
 * native code can decide at the commit that brings it (native/filesystem/ext-newcomers.cc).
 *
 *   --exclude-files X/**       X, and what is below it
 *   --only-files, any number   directories below which none of them can match
 *
 * Guarantees: in doubt a directory is none of them. So is one with a line break in its path, which `*` does not match.
 */
import picomatch from 'picomatch'

import type { FileRule } from './file-rules.js'

export interface NumberedRule {
  rule: FileRule
  number: number
}

const everythingBelow = '/**'
/** What picomatch might take for more than `*`, `?` or a letter. */
const special = /[{}[\]()\\|!+@"$^]|\/\//
const wild = /[*?]/
const lineBreak = /[\n\r\u2028\u2029]/

/**
 * For each directory, a parent before its children, the number of the rule, or `unchosen`, which leaves all out that is below;
 * 0: none. `unchosen` is 0 without rules of --only-files.
 */
export function wholeDirectories(
  count: number,
  parentOf: (directory: number) => number,
  pathOf: (directory: number) => string,
  rules: readonly NumberedRule[],
  unchosen: number,
): Uint8Array {
  const above = rules.flatMap(({ rule: { kind, glob }, number }) =>
    kind === 'exclude' && glob.endsWith(everythingBelow) && !special.test(glob)
      ? [{ number, matches: matcherOf(glob.slice(0, -everythingBelow.length)) }]
      : [],
  )
  const only = rules.filter(({ rule }) => rule.kind === 'only').map(({ rule }) => prefixOf(rule.glob))
  const whole = new Uint8Array(count)
  for (let directory = 0; directory < count; directory++) {
    const path = pathOf(directory)
    if (lineBreak.test(path)) continue
    const inherited = directory === 0 ? 0 : (whole[parentOf(directory)] ?? 0)
    const [found] = inherited === 0 ? above.filter(({ matches }) => matches(path)) : []
    const isUnchosen = inherited === 0 && unchosen !== 0 && only.every(prefix => !mayMatchBelow(prefix, path))
    whole[directory] = inherited !== 0 ? inherited : (found?.number ?? (isUnchosen ? unchosen : 0))
  }
  return whole
}

/** Paths of directories end in /. */
function matcherOf(glob: string): (path: string) => boolean {
  if (glob === '') return path => path === '/'
  const matches = picomatch(glob, { dot: true, nonegate: true, strictSlashes: true })
  return path => matches(path.slice(0, -1))
}

interface Prefix {
  names: string[]
  isAll: boolean
}

/** The names a glob begins with. */
function prefixOf(glob: string): Prefix {
  if (special.test(glob)) return { names: [], isAll: false }
  const names = glob.split('/').slice(1)
  const first = names.findIndex(name => wild.test(name) || name === '')
  return first < 0 ? { names, isAll: true } : { names: names.slice(0, first), isAll: false }
}

function mayMatchBelow({ names, isAll }: Prefix, path: string): boolean {
  const own = path.split('/').slice(1, -1)
  if (isAll && own.length >= names.length) return false
  return names.every((name, index) => index >= own.length || own[index] === name)
}
