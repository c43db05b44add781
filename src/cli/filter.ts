/** understudy filter: what rules for files would leave out of a volume; another filter for one that is being served. */
import { Command } from 'commander'

import { UnderstudyError, UsageError } from '../core/errors.js'
import { formatSize } from '../core/units.js'
import type { FilterChangeReply, FilterChangeRequest, FilterReply, FilterRequest } from '../daemon/control-protocol.js'
import { parseFileRules } from '../filter/file-rules.js'
import type { FilterWish } from '../filter/filter-change.js'
import { connectTo, print, repeatable, type StateFlag, stateOption } from './options.js'
import { clearTerminal, watch } from './watch.js'

const help = `
Asked on the master's host, of a volume that is being served.

--explain shows which file systems lie on it, which files the rules for files of this very call match, and how many bytes
each way; without rules, those that are in force. It changes nothing. What --replicate and --exclude leave out is counted
apart. With --watch it is shown again whenever it has changed, until Ctrl-C (exit code 0); with --json as one line each.
File systems are read once a second at most, and for a tenth of the time.

--apply puts another filter in force while clients go on. Of the five kinds (--replicate, --exclude, --exclude-files,
--only-files, --filter-fallback) those that are named replace what is in force of their kind, and the others stay; with
--clear they go: --clear --apply alone replicates everything. What is newly replicated is read in the background, and
the standby shows the cut before until it has all of it; what is newly left out becomes zeroes there; nothing else is
sent again. Refused, with nothing changed, where a start would be. --dry-run says what it would do.
It lasts until the daemon is started again, or reads understudy.toml again (SIGHUP): change that, or its flags, too.

GLOB is an absolute path inside a file system: /var/tmp/**, /swapfile, partition=2:/srv/*.iso. It is not under the place
where a client has mounted that file system. A file with several names is left out only if all of them are.
ext2, ext3, ext4, swap areas, partitions and LVM volumes are read; docs/filters.md says how far. All else is replicated.

A rule that matches nothing is a warning, and exit code 0.

Example: understudy filter disk1 --exclude-files '/var/tmp/**' --exclude-files /swapfile --explain
         understudy filter disk1 --only-files 'partition=2:/srv/db/**' --explain --json
         understudy filter disk1 --explain --watch
         understudy filter disk1 --replicate partition=2 --replicate partition=3 --apply
         understudy filter disk1 --clear --exclude 10GiB-12GiB --dry-run
`

/** How long --watch waits at least, and how much longer than a reading has taken. */
const [watchLeastMs, watchRestShare] = [1000, 9]

interface FilterFlags extends StateFlag {
  explain?: boolean
  apply?: boolean
  dryRun?: boolean
  clear?: boolean
  json?: boolean
  watch?: boolean
  replicate?: string[]
  exclude?: string[]
  filterFallback?: string
  excludeFiles?: string[]
  onlyFiles?: string[]
}

export function filterCommand(): Command {
  return new Command('filter')
    .description('show what rules for files would leave out of a volume, or change its filter')
    .argument('<volume>', "the volume's name")
    .option('--exclude-files <glob>', 'leave these files out; any number of times', repeatable)
    .option('--only-files <glob>', 'leave all other files out; any number of times', repeatable)
    .option('--replicate <what>', 'only this: partition=N; any number of times', repeatable)
    .option('--exclude <range>', 'not this: START-END (END not included) or START+LENGTH; the same', repeatable)
    .option('--filter-fallback <what>', 'where a rule for files cannot be kept: refuse, or all is replicated')
    .option('--explain', 'show file systems, files and bytes')
    .option('--apply', 'put this filter in force now')
    .option('--clear', 'begin with no filter at all; what is not named goes')
    .option('--dry-run', 'say what --apply would do')
    .option('--json', 'the whole account, for programs')
    .option('--watch', 'again whenever it changes, until Ctrl-C')
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(async (volume: string, flags: FilterFlags) => {
      const changes = flags.apply === true || flags.dryRun === true
      if (changes === (flags.explain === true))
        throw new UsageError('filter: one of --explain, --apply and --dry-run is needed')
      if (changes && flags.watch === true) throw new UsageError('filter: --watch goes with --explain alone')
      await (changes ? change(volume, flags) : explain(volume, flags))
    })
}

async function change(volume: string, flags: FilterFlags): Promise<void> {
  const wish: FilterWish = {
    clear: flags.clear === true,
    replicate: flags.replicate ?? [],
    exclude: flags.exclude ?? [],
    excludeFiles: flags.excludeFiles ?? [],
    onlyFiles: flags.onlyFiles ?? [],
    fallback: flags.filterFallback ?? '',
  }
  const { clear, fallback, ...lists } = wish
  if (!clear && fallback === '' && Object.values(lists).every(list => list.length === 0))
    throw new UsageError('filter: no filter is named; --clear is for none at all')
  const request: FilterChangeRequest = { volume, dryRun: flags.dryRun === true, ...wish }
  const reply = await connectTo(flags).post<FilterChangeReply>('/change-filter', request)
  print(flags.json === true ? JSON.stringify(reply) : changeText(volume, reply))
  for (const warning of reply.warnings) process.stderr.write(`understudy: warning: ${warning}\n`)
}

function changeText(volume: string, reply: FilterChangeReply): string {
  const { inForce, keys, sizeBytes, leftOutBytes, enteringBytes, leavingBytes, file } = reply
  const is = inForce ? 'is' : 'would be'
  const left = `${formatSize(leftOutBytes)} of ${formatSize(sizeBytes)} ${is} left out`
  const lines =
    keys.length === 0
      ? [`${volume}: no filter ${is} in force, everything ${is} replicated`]
      : [`${volume}: this filter ${is} in force: ${left}`, ...keys.map(key => `  ${key}`)]
  if (enteringBytes > 0)
    lines.push(
      `newly replicated: ${formatSize(enteringBytes)}; the standby shows the cut before until it has them` +
        ` (understudy wait ${volume} --for protected)`,
    )
  if (leavingBytes > 0) lines.push(`newly left out: ${formatSize(leavingBytes)}; zeroes on the standby`)
  if (enteringBytes + leavingBytes === 0) lines.push('the same bytes as before are replicated')
  const where = file === '' ? 'start it with these flags from then on' : `write it to ${file}, too`
  const until = file === '' ? 'the daemon is started again' : 'the daemon is started again, or reloads'
  if (inForce) lines.push(`this lasts until ${until}: ${where}`)
  return lines.join('\n')
}

async function explain(volume: string, flags: FilterFlags): Promise<void> {
  const others = ['replicate', 'exclude', 'filterFallback', 'clear'] as const
  if (others.some(name => flags[name] !== undefined))
    throw new UsageError('filter: --explain is about rules for files alone; --dry-run says what the others would do')
  const request = { volume, excludeFiles: flags.excludeFiles ?? [], onlyFiles: flags.onlyFiles ?? [] }
  parseFileRules(request.excludeFiles, request.onlyFiles)
  const client = connectTo(flags)
  const read = (signal?: AbortSignal): Promise<FilterReply> =>
    client.post<FilterReply>('/filter', request satisfies FilterRequest, signal)
  if (flags.watch !== true) return show(volume, await read(), flags)
  let shown = ''
  await watch({
    read: signal => read(signal).catch(undefinedIfBusy),
    show: reply => {
      const text = JSON.stringify(reply)
      if (reply === undefined || text === shown) return
      if (flags.json !== true && !clearTerminal() && shown !== '') print('')
      shown = text
      show(volume, reply, flags)
    },
    pauseMs: tookMs => Math.max(watchLeastMs, tookMs * watchRestShare),
  })
}

/** Nothing is known for now: the daemon reads for somebody else. */
function undefinedIfBusy(error: unknown): undefined {
  if (!(error instanceof UnderstudyError) || error.code !== 'BUSY') throw error
}

function show(volume: string, reply: FilterReply, flags: FilterFlags): void {
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
