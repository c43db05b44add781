/**
 * QEMU's monitor (qemu-qmp-ref(7)), as far as it is needed: one command after the other over its unix socket. Bounded in
 * what it reads, and in how long it waits.
 */
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'

import { type Clock, sleep } from '../core/clock.js'
import { describe, OperationError } from '../core/errors.js'

const answerMs = 5_000
const connectPollMs = 20

export class Qmp {
  readonly #lines: AsyncIterator<string>

  private constructor(
    private readonly socket: Socket,
    private readonly clock: Clock,
  ) {
    this.#lines = createInterface({ input: socket, crlfDelay: Infinity })[Symbol.asyncIterator]()
    socket.on('error', () => undefined) // Whoever reads finds the end.
  }

  /** Waits until there is one; `ended` says that there will be none. */
  static async open(path: string, clock: Clock, limitMs: number, ended: () => boolean = () => false): Promise<Qmp> {
    const deadlineMs = clock.monotonicMs() + limitMs
    for (;;) {
      const socket = await tryConnect(path)
      if (socket !== undefined) {
        const qmp = new Qmp(socket, clock)
        try {
          await qmp.#answer('QMP', Math.max(answerMs, deadlineMs - clock.monotonicMs()))
          await qmp.execute('qmp_capabilities')
          return qmp
        } catch (error) {
          qmp.close()
          throw error
        }
      }
      if (ended() || clock.monotonicMs() > deadlineMs)
        throw new OperationError('NO_MONITOR', `QEMU's monitor ${path} cannot be reached`)
      await sleep(clock, connectPollMs)
    }
  }

  async execute(command: string, args: object = {}): Promise<unknown> {
    this.socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`)
    return this.#answer('return', answerMs)
  }

  /** What its monitor for people prints. */
  async ask(line: string): Promise<string> {
    return String(await this.execute('human-monitor-command', { 'command-line': line }))
  }

  close(): void {
    this.socket.destroy()
  }

  /** Events are passed over. */
  async #answer(key: string, limitMs: number): Promise<unknown> {
    const late = sleep(this.clock, limitMs).then(() => 'late' as const)
    for (;;) {
      const next = await Promise.race([this.#lines.next(), late])
      if (next === 'late')
        throw new OperationError('MONITOR', `QEMU's monitor has not answered within ${limitMs / 1000} s`)
      if (next.done === true) throw new OperationError('MONITOR', "QEMU's monitor has ended")
      const message = parse(next.value)
      if (Object.hasOwn(message, key)) return message[key]
      if (Object.hasOwn(message, 'error'))
        throw new OperationError('MONITOR', `QEMU's monitor: ${JSON.stringify(message['error'])}`)
    }
  }
}

function parse(line: string): Record<string, unknown> {
  try {
    return JSON.parse(line) as Record<string, unknown>
  } catch (error) {
    throw new OperationError('MONITOR', `QEMU's monitor says what is no JSON: ${describe(error)}`, { cause: error })
  }
}

function tryConnect(path: string): Promise<Socket | undefined> {
  return new Promise(resolve => {
    const socket = connect(path)
    socket.once('connect', () => resolve(socket))
    socket.once('error', () => resolve(undefined))
  })
}
