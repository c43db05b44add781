/** understudy verify: both sides compared online, and the standby repaired when asked. */
import { Command } from 'commander'

import { OperationError } from '../core/errors.js'
import { formatSize, parseRate } from '../core/units.js'
import type { VerifyEvent, VerifyRange, VerifyRequest } from '../daemon/control-protocol.js'
import { connectTo, interruptSignal, parser, print, type StateFlag, stateOption } from './options.js'

const help = `
Asked on the master's host. Every chunk is hashed at one position of the history on both sides, so clients may go on writing
and there is no false alarm. Both sides read past their page caches: what is compared is what the disks have.
What a filter leaves out is not compared, but that the standby has zeroes there; those ranges are listed.
--repair sends what differs anew, in one step, and compares it again. The master's copy wins: if it is the master's disk
that has gone bad, do not repair but promote the standby (understudy promote).

Exit code 0: all equal, or all that differed was repaired. 1: something differs still, could not be read, or the
comparison did not come to its end.

Example: understudy verify disk1
         understudy verify disk1 --repair --rate 50MiB
`

interface VerifyFlags extends StateFlag {
  repair?: boolean
  rate?: number
}

const leftOutShown = 100

type Outcome = Extract<VerifyEvent, { done: true }>

export function verifyCommand(): Command {
  return new Command('verify')
    .description('compare both sides of a volume online, by hash; exit code 1 when they differ')
    .argument('<volume>', "the volume's name")
    .option('--repair', "send what differs anew: the master's copy wins")
    .option('--rate <size>', 'read so many bytes a second (default: what the clients leave)', parser(parseRate))
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(verifyVolume)
}

async function verifyVolume(volume: string, flags: VerifyFlags): Promise<void> {
  const signal = interruptSignal()
  const request = {
    volume,
    repair: flags.repair === true,
    rate: flags.rate === undefined ? '' : `${flags.rate}`,
  } satisfies VerifyRequest
  for await (const event of connectTo(flags).stream<VerifyEvent>('/verify', request, signal))
    if (event.done) return conclude(volume, event)
  throw new OperationError('INTERRUPTED', signal.aborted ? 'verify: interrupted' : 'verify: the daemon ended meanwhile')
}

function conclude(volume: string, outcome: Outcome): void {
  const { chunks, different, repaired, unreadableBytes } = outcome
  list(volume, outcome.differences, different, "differ on the standby from the master's")
  list(volume, outcome.unreadable, 0, 'cannot be read on the master, and were not compared')
  if (outcome.leftOutBytes > 0) {
    const { leftOut, leftOutBytes } = outcome
    for (const { offset, length } of leftOut.slice(0, leftOutShown))
      print(`${volume}: ${length} bytes at ${offset} are left out by the filter: zeroes on the standby`)
    if (leftOut.length > leftOutShown) print(`${volume}: and more; ${formatSize(leftOutBytes)} are left out in all`)
  }
  if (repaired > 0) print(`${volume}: ${repaired} chunks repaired with the master's copy`)
  if (different > repaired) {
    const still = repaired > 0 ? `; ${different - repaired} still do after the repair` : ''
    throw new OperationError(
      'DIFFERENT',
      `verify: volume '${volume}': ${different} of ${chunks} chunks differ${still}; the daemon's log lists them`,
    )
  }
  if (unreadableBytes > 0)
    throw new OperationError(
      'UNREADABLE',
      `verify: volume '${volume}': ${formatSize(unreadableBytes)} cannot be read on the master; the standby keeps its copy of them`,
    )
  print(`${volume}: ${chunks} chunks, all equal${repaired > 0 ? ' now' : ''}`)
}

function list(volume: string, ranges: VerifyRange[], count: number, what: string): void {
  for (const { offset, length } of ranges) print(`${volume}: ${length} bytes at ${offset} ${what}`)
  if (count > ranges.length && ranges.length > 0) print(`${volume}: and ${count - ranges.length} more`)
}
