/** understudy history: which moments of a volume its standby keeps, how much was written when, and the points. */
import { Command } from 'commander'

import type { HistoryReply, HistoryRequest } from '../daemon/control-protocol.js'
import { connectTo, print, type StateFlag, stateOption } from './options.js'
import { keptText, pointLines, positionText, shortTime, timeline, timelineBuckets } from './timeline.js'

const help = `
Asked on the standby's host, which was started with --history. Every moment between the two ends can be put on stage
(understudy export VOLUME --at MOMENT). A moment is written as

  INCARNATION:SEQUENCE    a position, as it is listed here; SEQUENCE alone is one of the newest incarnation
  2026-11-29T08:15:00Z    a time by the master's clock; without Z or +01:00 in this host's time zone
  -90s, -2h               so long ago
  before upgrade          the label of a point: of several the newest

Points are made by hand (understudy mark), by a master that stops cleanly (clean-stop), and by clients' flushes; of these
at most a thousand are told, spread over the time.

Example: understudy history disk1
         understudy history disk1 --from -2h --flushes
         understudy history disk1 --json
`

const bucketsOfJson = 200

interface HistoryFlags extends StateFlag {
  from?: string
  to?: string
  flushes?: boolean
  json?: boolean
}

export function historyCommand(): Command {
  return new Command('history')
    .description('show the moments that the standby keeps of a volume: rate of writes, marks, clean stops, flushes')
    .argument('<volume>', "the volume's name")
    .option('--from <moment>', 'not what was before')
    .option('--to <moment>', 'not what was after')
    .option('--flushes', 'list flushes, too')
    .option('--json', 'for programs')
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(async (volume: string, flags: HistoryFlags) => {
      const { from = '', to = '' } = flags
      const buckets = flags.json === true ? bucketsOfJson : timelineBuckets(process.stdout.columns ?? 100)
      const request: HistoryRequest = { volume, from, to, buckets }
      const reply = await connectTo(flags).post<HistoryReply>('/history', request)
      print(flags.json === true ? JSON.stringify(reply) : historyText(reply, flags.flushes === true))
    })
}

export function historyText(reply: HistoryReply, withFlushes: boolean): string {
  const { volume, group, oldest, newest, points } = reply
  const name = group === volume ? volume : `${volume} (group ${group})`
  const lines = [`${name}: ${keptText(reply)}`]
  if (oldest !== null && newest !== null)
    lines.push(
      `oldest ${shortTime(oldest.time)} ${positionText(oldest)}   newest ${shortTime(newest.time)} ${positionText(newest)}`,
    )
  lines.push('', ...timeline(reply), '')
  const flushes = points.filter(({ kind }) => kind === 'flush').length
  const listed = withFlushes ? points : points.filter(({ kind }) => kind !== 'flush')
  if (listed.length > 0) lines.push(...pointLines(listed))
  if (flushes > 0 && !withFlushes) lines.push(`${flushes} flushes are not listed (--flushes)`)
  if (points.length === 0) lines.push('no points')
  return lines.join('\n')
}
