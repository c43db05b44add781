/** understudy wait: returns when a volume has come to a state. */
import { Argument, Command, Option } from 'commander'

import { OperationError, UsageError } from '../core/errors.js'
import { parseDuration } from '../core/units.js'
import { type WaitCondition, waitConditions, type WaitEvent, type WaitRequest } from '../daemon/control-protocol.js'
import { connectTo, interruptSignal, parser, print, type StateFlag, stateOption } from './options.js'

interface WaitFlags extends StateFlag {
  for?: WaitCondition
  timeout?: number
}

const help = `
  protected  what the durability promises holds, and nothing is dirty
  drained    the standby has applied every write made so far
  usable     the standby's copy can be exported and promoted

Example: understudy wait disk1 --for drained --timeout 60
`

export function waitCommand(): Command {
  return new Command('wait')
    .description('wait until a volume is protected, drained or usable')
    .addArgument(new Argument('<volume>', "the volume's name"))
    .addOption(new Option('--for <condition>', 'what to wait for; needed').choices([...waitConditions]))
    .option(
      '--timeout <time>',
      'give up (exit code 1) after so long: 30, 500ms, 5m (default: never)',
      parser(parseDuration),
    )
    .addOption(stateOption())
    .addHelpText('after', help)
    .action(waitForVolume)
}

async function waitForVolume(volume: string, flags: WaitFlags): Promise<void> {
  if (flags.for === undefined) throw new UsageError(`wait: --for is missing; one of ${waitConditions.join(', ')}`)
  const signal = interruptSignal()
  const request: WaitRequest = { volume, for: flags.for, timeoutMs: flags.timeout ?? null }
  const progress = new ProgressLine()
  try {
    for await (const event of connectTo(flags).stream<WaitEvent>('/wait', request, signal)) {
      if (!event.done) {
        progress.show(`${volume}: not ${flags.for} yet: ${event.missing}`)
        continue
      }
      progress.clear()
      print(`${volume} is ${flags.for}`)
      return
    }
  } finally {
    progress.clear()
  }
  throw new OperationError('INTERRUPTED', signal.aborted ? 'wait: interrupted' : 'wait: the daemon ended meanwhile')
}

/** One line that is rewritten, on a terminal; nothing elsewhere. */
class ProgressLine {
  private shown = false

  show(text: string): void {
    if (!process.stderr.isTTY) return
    this.shown = true
    process.stderr.write(`\r\x1b[K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`)
  }

  clear(): void {
    if (this.shown) process.stderr.write('\r\x1b[K')
    this.shown = false
  }
}
