/**
 * Rules in terms of files: `--exclude-files GLOB` and `--only-files GLOB`, any number of times.
 *
 *   left out = (there are only-rules and none matches) or an exclude-rule matches, by every name the file has
 *
 * A glob is an absolute path inside a file system, not under the place where a client has mounted it: on a /var of its
 * own, /var/tmp is /tmp. `partition=N:` before it: only in that partition. Hidden files match like others.
 */
import picomatch from 'picomatch'

import { UsageError } from '../core/errors.js'

export interface FileRule {
  /** As it was typed. */
  text: string
  /** Without `partition=N:`. */
  glob: string
  kind: 'exclude' | 'only'
  /** Undefined: wherever a file system is. */
  partition: number | undefined
  matches: (path: string) => boolean
}

const prefix = /^partition=(\d+):/
/** Longer ones are slips; a rule is matched against every name on the device. */
const globLengthMax = 1024
const rulesMax = 100

/** Throws UsageError. */
export function parseFileRules(exclude: readonly string[], only: readonly string[]): FileRule[] {
  const rules = [
    ...exclude.map(text => parseFileRule(text, 'exclude')),
    ...only.map(text => parseFileRule(text, 'only')),
  ]
  if (rules.length > rulesMax) throw new UsageError(`${rules.length} rules for files, where ${rulesMax} are the most`)
  return rules
}

function parseFileRule(text: string, kind: FileRule['kind']): FileRule {
  const flag = `--${kind}-files '${text}'`
  const found = prefix.exec(text)
  const glob = found === null ? text : text.slice(found[0].length)
  const partition = found === null ? undefined : Number(found[1])
  if (partition !== undefined && !(partition >= 1 && partition <= 0xffffffff))
    throw new UsageError(`${flag}: partitions count from 1`)
  if (!glob.startsWith('/'))
    throw new UsageError(
      `${flag}: an absolute path inside the file system, such as /var/tmp/** or partition=2:/swapfile`,
    )
  if (glob.length > globLengthMax) throw new UsageError(`${flag.slice(0, 60)}...: longer than ${globLengthMax} letters`)
  return { text, glob, kind, partition, matches: picomatch(glob, { dot: true, nonegate: true, strictSlashes: true }) }
}
