/** Options and helpers that several commands share. */
import { resolve } from 'node:path'
import { setFlagsFromString } from 'node:v8'

import { type Command, InvalidArgumentError, Option } from 'commander'

import type { Config } from '../core/config-types.js'
import { UsageError } from '../core/errors.js'
import { formatAddress, parseAddress, parseDuration } from '../core/units.js'
import { ControlClient } from '../daemon/control-client.js'

const defaultState = '/var/lib/understudy'

export interface StateFlag {
  state: string
}

/** Of a command that talks to a daemon. */
export function stateOption(): Option {
  return new Option('--state <dir>', "the daemon's state directory").env('UNDERSTUDY_STATE').default(defaultState)
}

export interface TlsFlags {
  tls?: string
  tlsCertificates?: string
  tlsVerifyPeer?: boolean
  tlsPsk?: string
}

/** Of commands whose NBD clients may use TLS. */
export function addTlsOptions(command: Command, otherwise = 'off'): Command {
  return command
    .option('--tls <mode>', `TLS for NBD clients: off, on or require, i.e. nothing without it (default: ${otherwise})`)
    .option('--tls-certificates <dir>', 'directory with server-cert.pem and server-key.pem (mode 0600)')
    .option('--tls-verify-peer', 'clients need a certificate signed by DIR/ca-cert.pem')
    .option('--tls-psk <file>', 'pre-shared keys (mode 0600), one USER:HEXKEY a line, as psktool writes them')
}

export const connectTo = (flags: StateFlag): ControlClient => new ControlClient(flags.state)

/**
 * Loads the daemon's modules only now: the other commands start in half the time without them. A standby's are compiled as a
 * whole: most of what a promotion runs has never run before, and would be compiled while clients wait for it.
 */
export async function startDaemon(config: Config, options: { maxStallMs?: number } = {}): Promise<void> {
  if (config.standby !== undefined) for (const flag of ['--no-lazy', '--no-flush-bytecode']) setFlagsFromString(flag)
  const { runDaemon } = await import('../daemon/main.js')
  await runDaemon(config, options)
}

/** commander would name a missing flag before an unknown one, and hide the slip of the pen that is the reason. */
export function requireFlags<T extends object>(command: string, flags: T, names: (keyof T & string)[]): void {
  const missing = names.filter(name => flags[name] === undefined).map(name => `--${name}`)
  if (missing.length === 0) return
  throw new UsageError(
    `${command}: ${missing.join(' and ')} ${missing.length === 1 ? 'is' : 'are'} missing (see understudy ${command} --help)`,
  )
}

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

/** Of what has failed when it takes longer: in no time everything has. */
export function parseLimit(text: string): number {
  const milliseconds = parseDuration(text)
  if (milliseconds === 0) throw new UsageError(`'${text}' is no time at all`)
  return milliseconds
}

/** Of options that may be given several times. */
export const repeatable = (text: string, before: string[] | undefined): string[] => [...(before ?? []), text]

/** Of a command's --at, as the daemon reads it: a moment; '': now, as it was not given. */
export function momentOf(command: string, { at }: { at?: string }): string {
  if (at?.trim() === '') throw new UsageError(`${command}: --at is empty; without it, the copy is as it is now`)
  return at ?? ''
}

/** An address as the daemon needs it, whose working directory is another one. */
export function absoluteAddress(text: string): string {
  const address = parseAddress(text)
  return formatAddress(address.kind === 'unix' ? { ...address, path: resolve(address.path) } : address)
}

export const print = (line: string): void => void process.stdout.write(line + '\n')

/** Aborted at the first Ctrl-C or SIGTERM; the second one ends the process the usual way. */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => controller.abort())
  return controller.signal
}
