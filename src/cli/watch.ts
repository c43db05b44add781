/** `--watch` of commands that show something: again and again, until Ctrl-C, or until nobody reads it any more. */
import { interruptSignal } from './options.js'

export interface Watched<T> {
  /** What fails after the signal is no failure. */
  read: (signal: AbortSignal) => Promise<T>
  show: (document: T) => void
  /** From one reading, which took so long, to the next. */
  pauseMs: (tookMs: number) => number
}

export async function watch<T>({ read, show, pauseMs }: Watched<T>): Promise<void> {
  const signal = AbortSignal.any([interruptSignal(), lostReader()])
  while (!signal.aborted) {
    const began = performance.now()
    try {
      show(await read(signal))
    } catch (error) {
      if (signal.aborted) return
      throw error
    }
    await pause(pauseMs(performance.now() - began), signal)
  }
}

/** A terminal shows the newest only; for anything else one follows the other. */
export const clearTerminal = (): boolean => process.stdout.isTTY && process.stdout.write('\x1b[H\x1b[2J')

/** `understudy status --watch | head -1` */
function lostReader(): AbortSignal {
  const controller = new AbortController()
  process.stdout.once('error', () => controller.abort())
  return controller.signal
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, milliseconds)
    signal.addEventListener('abort', done)
  })
}
