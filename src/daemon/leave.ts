/**
 * How a daemon ends. Node's addon clean-up hooks do not run on process.exit, an uncaught exception or a signal, and a
 * process that exits while threads are inside GnuTLS aborts. So every way out passes here:
 *
 *   SIGTERM, SIGINT      drain (bounded), unlink sockets, addon.exit(0)
 *   a second one         unlink sockets, addon.exit(130) at once
 *   uncaught exception,  log, then as SIGTERM but addon.exit(1)
 *   unhandled rejection
 *   process.exit()       'exit' handler: unlink sockets, addon.stop() joins the threads
 *
 * Guarantees: addon.exit is called once; the drain cannot hold the process longer than its limit.
 */
import type { Addon } from '../native/binding.js'
import type { Logger } from '../core/log.js'

export interface LeaveOptions {
  addon: Pick<Addon, 'exit' | 'stop'>
  log: Logger
  /** Brings everything to rest. Rejecting or exceeding drainMs() ends with exit code 1. */
  drain(): Promise<void>
  drainMs(): number
  /** Synchronous: removes socket files. Called at least once, perhaps twice. */
  cleanUp(): void
  reload(): void
  /** The real process, or a stand-in. */
  host?: ProcessHost
}

export interface ProcessHost {
  on(event: string, listener: (...values: unknown[]) => void): unknown
}

/** Beyond the drain's own limit: closing files and sockets. */
const closeGraceMs = 5_000
const signalExitCode = 130

export class Leaver {
  private leaving = false
  private left = false
  private timer: NodeJS.Timeout | undefined

  constructor(private readonly options: LeaveOptions) {}

  /** Takes over signals, uncaught errors and 'exit'. */
  install(): void {
    const host: ProcessHost = this.options.host ?? process
    for (const signal of ['SIGTERM', 'SIGINT']) host.on(signal, () => this.signalled(signal))
    host.on('SIGHUP', () => this.options.reload())
    // A reader that went away must not end the daemon.
    host.on('SIGPIPE', () => undefined)
    host.on('uncaughtException', error => this.crashed('uncaught exception', error))
    host.on('unhandledRejection', error => this.crashed('unhandled rejection', error))
    host.on('exit', () => this.exited())
  }

  /** Drains and ends with `code`; further calls change nothing. Without a reason everything has been said already. */
  leave(code: number, reason?: string): void {
    if (this.leaving) return
    this.leaving = true
    const seconds = Math.ceil(this.options.drainMs() / 1000)
    if (reason !== undefined) this.options.log.info(`leaving: ${reason}; draining for at most ${seconds} s`)
    void this.drainThenExit(code)
  }

  private async drainThenExit(code: number): Promise<void> {
    const limit = new Promise<'late'>(resolve => {
      this.timer = setTimeout(() => resolve('late'), this.options.drainMs() + closeGraceMs)
    })
    try {
      const outcome = await Promise.race([this.options.drain(), limit])
      if (outcome === 'late')
        this.options.log.error('leaving: the drain did not end in time; what remains is marked dirty at the next start')
      this.exit(outcome === 'late' ? 1 : code)
    } catch (error) {
      this.options.log.error(`leaving: the drain failed: ${stackOf(error)}`)
      this.exit(1)
    }
  }

  private signalled(signal: string): void {
    if (!this.leaving) return this.leave(0, signal)
    this.options.log.warn(`leaving: second signal (${signal}); not draining any further`)
    this.exit(signalExitCode)
  }

  private crashed(kind: string, error: unknown): void {
    this.options.log.error(`${kind}: ${stackOf(error)}`)
    this.leave(1, kind)
  }

  private exit(code: number): void {
    if (this.left) return
    this.left = true
    clearTimeout(this.timer)
    this.cleanUp()
    this.options.addon.exit(code)
  }

  private exited(): void {
    if (this.left) return
    this.left = true
    this.cleanUp()
    this.options.addon.stop()
  }

  private cleanUp(): void {
    try {
      this.options.cleanUp()
    } catch (error) {
      this.options.log.warn(`leaving: ${stackOf(error)}`)
    }
  }
}

const stackOf = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error))
