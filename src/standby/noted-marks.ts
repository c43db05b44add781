/** Moments that are to have a name: those the master tells of, once their records are here, and those of this host's operator. */
import { type Clock, sleep } from '../core/clock.js'
import { describe, OperationError } from '../core/errors.js'
import type { Position } from '../core/reigns.js'
import { encodeMarked, type Mark } from '../transport/messages.js'
import type { Session } from '../transport/transport.js'
import type { GroupHistory } from './history.js'
import { checkLabel, cleanStopLabel } from './moment.js'
import type { HistoryPoint } from './points.js'

export interface MarkDeps {
  group: string
  history: GroupHistory
  clock: Clock
  /** Up to where the images are; a cut, and no step is being collected. Undefined: that is not so. */
  settled: () => Position | undefined
  /** The session takes part no more. */
  isOver: (session: Session) => boolean
}

/** Records that were on their way before the mark come within it, or the link is too slow to wait for. */
const waitMs = 10_000
const pollMs = 20
/** A master of this program has no more under way. */
const waitingMax = 100

export class NotedMarks {
  #waiting = 0

  constructor(private readonly deps: MarkDeps) {}

  /** The master is answered, with what was wrong if anything was. */
  async received(session: Session, mark: Mark): Promise<void> {
    let problem = ''
    this.#waiting++
    try {
      if (this.#waiting > waitingMax)
        throw new OperationError('BUSY', `mark group ${this.deps.group}: ${waitingMax} marks are under way; try again`)
      await this.#note(session, mark)
    } catch (error) {
      problem = describe(error)
    } finally {
      this.#waiting--
    }
    session.send(encodeMarked({ id: mark.id, problem }))
  }

  /** By the operator of the standby: what the images hold now. */
  byHand(action: string, given: string): HistoryPoint {
    const { history, clock, settled } = this.deps
    const label = checkLabel(given)
    const newest = history.newest(action)
    if (settled() === undefined) throw this.#unsettled(action)
    return history.note(action, 'mark', label, newest, BigInt(clock.wallMs()) * 1_000_000n)
  }

  async #note(session: Session, mark: Mark): Promise<void> {
    const { history, clock, isOver, group } = this.deps
    const action = `mark group ${group}`
    const kind = mark.kind === 'clean-stop' ? 'clean-stop' : 'mark'
    const label = kind === 'clean-stop' ? cleanStopLabel : checkLabel(mark.label)
    history.newest(action) // Without one there is nothing to wait for.
    for (const deadlineMs = clock.monotonicMs() + waitMs; ; await sleep(clock, pollMs)) {
      const position = this.#reached(action, mark.position)
      if (position !== undefined) return void history.note(action, kind, label, position, mark.timeNs)
      if (isOver(session)) throw new OperationError('STOPPING', `${action}: the session has ended`)
      if (clock.monotonicMs() < deadlineMs) continue
      throw this.deps.settled() === undefined ? this.#unsettled(action) : this.#late(action)
    }
  }

  /** Undefined: the images are not there yet. A master that has written nothing yet stands where its standby does. */
  #reached(action: string, position: Position): Position | undefined {
    const here = this.deps.settled()
    if (here === undefined) return undefined
    const isSame = here.incarnation === position.incarnation
    if (position.sequence === 0n) return isSame ? undefined : this.deps.history.newest(action)
    return isSame && here.sequence >= position.sequence ? position : undefined
  }

  #late(action: string): OperationError {
    const text = `what was written before has not come to the standby within ${waitMs / 1000} s`
    return new OperationError('LATE', `${action}: ${text}; try again`)
  }

  #unsettled(action: string): OperationError {
    const text = 'the copy is being made or resynchronised, and has no moment of its own now'
    return new OperationError('STEP', `${action}: ${text}; try again when it is protected`)
  }
}
