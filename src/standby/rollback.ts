/**
 * The images of a group become what they were at a moment of its history, before the group reigns (`promote --at`). They are
 * nothing that could be served until it is done; a stop leaves the rest to the next start, which begins anew
 * (native/replay/rollback.h). Some MiB at a time, so that neither a stop nor other groups wait for all of it.
 */
import type { Clock } from '../core/clock.js'
import { errnoOf, NativeError, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { formatSize } from '../core/units.js'
import type { Addon, Point, RolledBack } from '../native/binding.js'
import { momentText } from './history.js'

export interface RollbackDeps {
  addon: Pick<Addon, 'rollBackReplica'>
  clock: Clock
  log: Logger
}

const sayEveryMs = 10_000

export class Rollback {
  #progress: RolledBack | undefined
  #saidMs = 0

  constructor(
    private readonly group: string,
    private readonly deps: RollbackDeps,
  ) {}

  /** How far it is, for people; '' when it is not under way. */
  get text(): string {
    if (this.#progress === undefined) return ''
    const { doneBytes, totalBytes } = this.#progress
    return `what was written since is being undone, ${formatSize(doneBytes)} of ${formatSize(totalBytes)}`
  }

  /** Everything is applied and synced, and the history is held. Returns how many bytes were written over. */
  async run(replica: number, to: Point, isStopping: () => boolean): Promise<number> {
    this.#progress = { doneBytes: 0, totalBytes: 0, isDone: false }
    this.#saidMs = this.deps.clock.monotonicMs()
    try {
      while (!this.#progress.isDone) {
        if (isStopping())
          throw new OperationError(
            'STOPPING',
            `promote group ${this.group}: the daemon is stopping; its next start goes on, as of ${momentText(to)}`,
          )
        this.#progress = await this.#part(replica, to)
        this.#say()
      }
      return this.#progress.totalBytes
    } finally {
      this.#progress = undefined
    }
  }

  async #part(replica: number, to: Point): Promise<RolledBack> {
    try {
      return await this.deps.addon.rollBackReplica(replica, { incarnation: to.incarnation, sequence: to.sequence })
    } catch (error) {
      const action = `promote group ${this.group}: undo what was written after ${momentText(to)}`
      if (!['ERANGE', 'ENODATA'].includes(errnoOf(error) ?? ''))
        throw new NativeError(`${action} (run promote again)`, error)
      throw new OperationError(
        'NO_MOMENT',
        `${action}: its history has lost that moment, and its images are no moment at all: begin anew with another copy`,
        { cause: error },
      )
    }
  }

  #say(): void {
    const { clock, log } = this.deps
    if (clock.monotonicMs() < this.#saidMs + sayEveryMs) return
    this.#saidMs = clock.monotonicMs()
    log.info(`group ${this.group}: ${this.text}`)
  }
}
