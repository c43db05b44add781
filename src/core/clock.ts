/** Time as a parameter, so that a test or a simulator can stand in for it. */
export interface Clock {
  /** Milliseconds that never go back. */
  monotonicMs(): number
  /** Milliseconds since 1970. */
  wallMs(): number
  /** Calls once; the result cancels. */
  after(milliseconds: number, call: () => void): () => void
  /** Calls again and again, the first time after so long at most; does not keep the process alive. */
  every(milliseconds: number, call: () => void): () => void
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  after: (milliseconds, call) => {
    const timer = setTimeout(call, milliseconds)
    return () => clearTimeout(timer)
  },
  every: (milliseconds, call) => {
    const calls = sharedTimer(milliseconds)
    const own = (): void => call()
    calls.add(own)
    return () => {
      calls.delete(own)
    }
  },
}

/** Who asks for the same interval is called at the same moments: one wake-up for all groups of an idle host. */
const intervals = new Map<number, Set<() => void>>()

function sharedTimer(milliseconds: number): Set<() => void> {
  const known = intervals.get(milliseconds)
  if (known !== undefined) return known
  const calls = new Set<() => void>()
  const timer = setInterval(() => {
    if (calls.size === 0) {
      clearInterval(timer)
      intervals.delete(milliseconds)
    }
    for (const call of calls) call()
  }, milliseconds).unref()
  intervals.set(milliseconds, calls)
  return calls
}

export function sleep(clock: Clock, milliseconds: number): Promise<void> {
  return new Promise(resolve => clock.after(milliseconds, resolve))
}
