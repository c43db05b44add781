/**
 * Moments that get a name on the standby. The master says behind which record; the standby answers once it has noted it.
 *
 * Guarantees: whoever asks hears that the mark is on the standby's disk, or why it may not be, within the time.
 */
import type { Clock } from '../core/clock.js'
import { OperationError } from '../core/errors.js'
import type { Position } from '../core/reigns.js'
import { decodeMarked, encodeMark, type Mark, type Welcome } from '../transport/messages.js'

export interface MarksDeps {
  group: string
  clock: Clock
  /** Nothing happens without a session. */
  send: (message: object) => void
}

/** Longer than the standby waits for the records before a mark. */
const answerMs = 12_000
const waitingMax = 100

export class Marks {
  #keepsHistory = false
  #lastId = 0
  readonly #waiting = new Map<number, (problem: string) => void>()

  constructor(private readonly deps: MarksDeps) {}

  welcomed({ keepsHistory }: Welcome): void {
    this.#keepsHistory = keepsHistory
  }

  lost(): void {
    this.#keepsHistory = false
    for (const answer of [...this.#waiting.values()]) answer('the session with the standby has ended')
  }

  heard(message: unknown): void {
    const { id, problem } = decodeMarked(message)
    this.#waiting.get(id)?.(problem)
  }

  get areKept(): boolean {
    return this.#keepsHistory
  }

  /** Resolves when the standby has it on disk. */
  async send(mark: Omit<Mark, 'id'>, limitMs = answerMs): Promise<void> {
    const { clock, group } = this.deps
    const action = `mark group ${group}`
    if (!this.#keepsHistory)
      throw new OperationError('NO_HISTORY', `${action}: the standby keeps no history; start it with --history 24h`)
    if (this.#waiting.size >= waitingMax)
      throw new OperationError('BUSY', `${action}: ${waitingMax} marks are under way; try again`)
    const id = (this.#lastId = (this.#lastId % 0x7fffffff) + 1)
    let cancel = (): void => undefined
    const answer = new Promise<string>(resolve => {
      this.#waiting.set(id, resolve)
      cancel = clock.after(limitMs, () => resolve(`the standby has not answered within ${limitMs / 1000} s`))
    })
    try {
      this.deps.send(encodeMark({ id, ...mark }))
      const problem = await answer
      if (problem !== '') throw new OperationError('NOT_MARKED', `${action}: not known to be noted: ${problem}`)
    } finally {
      this.#waiting.delete(id)
      cancel()
    }
  }
}

/** By this host's clock, as the times of records. */
export function markNow(kind: string, label: string, position: Position, clock: Clock): Omit<Mark, 'id'> {
  return { kind, label, position, timeNs: BigInt(clock.wallMs()) * 1_000_000n }
}
