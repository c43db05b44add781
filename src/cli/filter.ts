/** understudy filter: what rules for files would leave out of a volume. */
import { Command } from 'commander'

import { UsageError } from '../core/errors.js'
import { formatSize } from '../core/units.js'
import type { FilterReply, FilterRequest } from '../daemon/control-protocol.js'
import { parseFileRules } from '../filter/file-rules.js'
import { connectTo, print, repeatable, type StateFlag, stateOption } from './options.js'

const help = `
Asked on the master's host, of a volume that is being served. Shows which file systems lie on it, which files the rules
of this very call match, and how many bytes each way; without rules, those that the volume was given (master
--exclude-files). A preview: it changes nothing. What --replicate and --exclude leave out is counted apart.

GLOB is an absolute path inside a file system: /var/tmp/**, /swapfile, partition=2:/srv/*.iso. It is not under the place
where a client has mounted that file system. A file with several names is left out only if all of them are.
ext2, ext3, ext4, swap areas, partitions and LVM volumes are read; docs/filters.md says how far. All else is replicated.

Exit code 0 also when a rule matches nothing, which is a warning.

Example: understudy filter disk1 --exclude-files '/var/tmp/**' --exclude-files /swapfile --explain
         understudy filter disk1 --only-files 'partition=2:/srv/db/**' --explain --json
`

interface FilterFlags extends StateFlag {
  explain?: boolean
  json?: boolean
  excludeFiles?: string[]
  onlyFiles?: string[]
}

export function filterCommand(): Command {
  return new Command('filter')
    .description('show what rules for files would leave out of a volume')
    .argument('<volume>', "the volume's name")
    .option('--exclude-files <glob>', 'leave these files out; any number of times', repeatable)
    .option('--only-files <glob>', 'leave all other files out; any number of times', repeatable)
    .option('--explain', 'show file systems, files and bytes; needed')
    .option('--json', 'the whole account, for programs')
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(explain)
}

async function explain(volume: string, flags: FilterFlags): Promise<void> {
  if (flags.explain !== true)
    throw new UsageError(
      'filter: --explain is missing; rules are put in force with master --exclude-files, or exclude_files in understudy.toml',
    )
  const request = { volume, excludeFiles: flags.excludeFiles ?? [], onlyFiles: flags.onlyFiles ?? [] }
  parseFileRules(request.excludeFiles, request.onlyFiles)
  const reply = await connectTo(flags).post<FilterReply>('/filter', request satisfies FilterRequest)
  print(flags.json === true ? JSON.stringify(reply) : textOf(volume, reply))
  for (const { rule, kind, files } of reply.rules)
    if (files === 0) process.stderr.write(`understudy: warning: --${kind}-files '${rule}' matches nothing\n`)
}

function textOf(volume: string, reply: FilterReply): string {
  const lines = [`${volume}: ${formatSize(reply.sizeBytes)}`]
  for (const one of reply.fileSystems) {
    const name = one.label === '' ? '' : ` '${one.label}'`
    lines.push(`  ${placeOf(one)}: ${one.kind}${name}, ${formatSize(one.sizeBytes)}`)
    if (one.replicatedBecause !== '') lines.push(`    all of it is replicated: ${one.replicatedBecause}`)
    if (one.files > 0) {
      const { files, fileBytes, leftOutFiles, leftOutBytes } = one
      lines.push(
        `    ${counted(files)} with ${formatSize(fileBytes)}; left out: ${counted(leftOutFiles)} with ${formatSize(leftOutBytes)}`,
      )
    }
    for (const remark of one.remarks) lines.push(`    ${remark}`)
  }
  for (const one of reply.rules) lines.push(...ruleLines(one))
  const { sizeBytes, leftOutByRanges, leftOutByFiles, leftOutNow } = reply
  if (leftOutByRanges > 0) lines.push(`left out already, by --replicate and --exclude: ${formatSize(leftOutByRanges)}`)
  if (leftOutNow > 0) lines.push(`left out now, by the rules for files that are in force: ${formatSize(leftOutNow)}`)
  lines.push(`would be left out by these rules: ${formatSize(leftOutByFiles)}, in ${reply.rangeCount} ranges`)
  lines.push(`would be replicated: ${formatSize(sizeBytes - leftOutByRanges - leftOutByFiles)}`)
  return lines.join('\n')
}

function placeOf({ partition, logicalVolume }: FilterReply['fileSystems'][number]): string {
  if (logicalVolume !== '') return `volume ${logicalVolume}`
  return partition === 0 ? 'the whole device' : `partition ${partition}`
}

function ruleLines(one: FilterReply['rules'][number]): string[] {
  const what = one.kind === 'exclude' ? 'leaves out' : 'chooses'
  const held =
    one.heldFiles > 0
      ? `; ${one.heldFiles} of them with ${formatSize(one.heldBytes)} are replicated all the same (another name, or data that cannot be told apart)`
      : ''
  const rest = one.files - one.largest.length
  return [
    `--${one.kind}-files '${one.rule}' matches ${counted(one.files)}, ${what} ${formatSize(one.bytes)}${held}`,
    ...one.largest.map(({ path, bytes }) => `  ${formatSize(bytes).padStart(10)}  ${printable(path)}`),
    ...(rest > 0 ? [`  and ${rest} more`] : []),
  ]
}

const counted = (files: number): string => (files === 1 ? '1 file' : `${files} files`)

/** A client chooses the names; they may not speak to the terminal. */
function printable(path: string): string {
  // eslint-disable-next-line no-control-regex
  return path.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')
}
