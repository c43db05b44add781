/** Time as a parameter, so that a test or a simulator can stand in for it. */
export interface Clock {
  /** Milliseconds that never go back. */
  monotonicMs(): number
  /** Milliseconds since 1970. */
  wallMs(): number
  /** Calls once; the result cancels. */
  after(milliseconds: number, call: () => void): () => void
  /** Calls again and again; does not keep the process alive. */
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
    const timer = setInterval(call, milliseconds).unref()
    return () => clearInterval(timer)
  },
}

export function sleep(clock: Clock, milliseconds: number): Promise<void> {
  return new Promise(resolve => clock.after(milliseconds, resolve))
}
