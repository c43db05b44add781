/** Options and helpers that several commands share. */
import { InvalidArgumentError, Option } from 'commander'

import { UsageError } from '../core/errors.js'
import { ControlClient } from '../daemon/control-client.js'

const defaultState = '/var/lib/understudy'

export interface StateFlag {
  state: string
}

/** Of a command that talks to a daemon. */
export function stateOption(): Option {
  return new Option('--state <dir>', "the daemon's state directory").env('UNDERSTUDY_STATE').default(defaultState)
}

export const connectTo = (flags: StateFlag): ControlClient => new ControlClient(flags.state)

/** Parser of units.ts as an option's parser: its refusal becomes commander's. */
export function parser<T>(parse: (text: string) => T): (text: string) => T {
  return text => {
    try {
      return parse(text)
    } catch (error) {
      if (error instanceof UsageError) throw new InvalidArgumentError(error.message)
      throw error
    }
  }
}

/** Of options that may be given several times. */
export const repeatable = (text: string, before: string[] | undefined): string[] => [...(before ?? []), text]

export const print = (line: string): void => void process.stdout.write(line + '\n')

/** Aborted at the first Ctrl-C or SIGTERM; the second one ends the process the usual way. */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => controller.abort())
  return controller.signal
}
