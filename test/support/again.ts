/**
 * Figures that a stolen second spoils (a rate, a wait, a session that is to last through silence): measured again, from
 * the start, before they count as a failure. A program that is wrong is wrong each time.
 */
import type { Test } from 'tap'
import type { Owner } from './daemon.js'

/** What was expected and is not so; any other error fails at once. */
class Unmet extends Error {}

export class Attempt implements Owner {
  /** 1, 2, ...: for waits that may be longer each time. */
  readonly number: number
  readonly met: string[] = []
  readonly #endings: (() => unknown)[] = []

  constructor(
    private readonly t: Test,
    number: number,
  ) {
    this.number = number
  }

  expects(condition: boolean, title: string): void {
    if (!condition) throw new Unmet(title)
    this.met.push(title)
  }

  teardown(ending: () => unknown): void {
    this.#endings.unshift(ending)
  }

  passing(): boolean {
    return this.t.passing()
  }

  comment(...text: unknown[]): void {
    this.t.comment(...text)
  }

  async end(): Promise<void> {
    for (const ending of this.#endings) await ending()
  }
}

/** The body begins with nothing and leaves nothing: what it starts belongs to the attempt. */
export async function again(t: Test, body: (attempt: Attempt) => Promise<void>, times = 4): Promise<void> {
  for (let number = 1; ; number++) {
    const attempt = new Attempt(t, number)
    let unmet: string | undefined
    try {
      await body(attempt)
    } catch (error) {
      if (!(error instanceof Unmet)) throw error
      unmet = error.message
    } finally {
      if (unmet !== undefined && number === times) t.fail(`${unmet} (the last of ${times} attempts)`)
      await attempt.end()
    }
    if (unmet === undefined) for (const title of attempt.met) t.pass(title)
    if (unmet === undefined || number === times) return
    t.comment(`attempt ${number}: ${unmet}`)
  }
}
