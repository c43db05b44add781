/**
 * One drill: a machine on views that are thrown away, until its marker comes, its port answers, it ends, or the time is
 * over. Whatever happens, QEMU is gone when it resolves.
 */
import { type Clock, sleep } from '../core/clock.js'
import { describe } from '../core/errors.js'
import { ConsoleTail } from './console.js'
import type { DrillWish } from './drill-file.js'
import { GuestPort } from './guest-port.js'
import { Qemu } from './qemu.js'
import { Qmp } from './qmp.js'
import type { RunFolder } from './run-folder.js'

export interface DrillOutcome {
  passed: boolean
  stopped?: true
  reason: string
  console: string[]
}

const consoleLines = 20
const portPollMs = 100
/** How long the kernel may take to carry what an ended QEMU has printed through the pipe. */
const monitorMs = 10_000

/** `signal`: aborted with the reason, for people, when it is not to go on. */
export async function runDrill(
  args: readonly string[],
  folder: RunFolder,
  wish: DrillWish,
  signal: AbortSignal,
  clock: Clock,
): Promise<DrillOutcome> {
  let printed = (): void => undefined
  const marker = new Promise<void>(resolve => (printed = resolve))
  const console = new ConsoleTail(wish.marker, printed)
  const qemu = Qemu.startBound(args, clock, folder.path, chunk => console.feed(chunk))
  const over = new AbortController()
  const cancel = clock.after(wish.timeoutMs, () => over.abort())
  try {
    const end = await Promise.race([
      marker.then(() => passed(`the console said '${wish.marker}'`)),
      ...(wish.port === 0 ? [] : [answering(wish.port, folder, qemu, clock)]),
      qemu.exited.then(({ how }) => failed(`QEMU: ${how}`)),
      aborted(over.signal).then(() => failed(missing(wish))),
      aborted(signal).then(() => ({ ...failed(String(signal.reason)), stopped: true as const })),
    ])
    return { ...end, console: console.lastLines(consoleLines) }
  } finally {
    cancel()
    await qemu.end()
  }
}

async function answering(port: number, folder: RunFolder, qemu: Qemu, clock: Clock): Promise<End> {
  let qmp: Qmp | undefined
  let guest: GuestPort | undefined
  try {
    qmp = await Qmp.open(folder.monitor, clock, monitorMs, () => qemu.hasExited)
    guest = new GuestPort(qmp, port)
    while (!(await guest.answers())) await sleep(clock, portPollMs)
    return passed(`TCP port ${port} answers`)
  } catch (error) {
    return failed(qemu.hasExited ? `QEMU: ${(await qemu.exited).how}` : describe(error))
  } finally {
    guest?.close()
    qmp?.close()
  }
}

type End = Omit<DrillOutcome, 'console'>
const passed = (reason: string): End => ({ passed: true, reason })
const failed = (reason: string): End => ({ passed: false, reason })

function missing({ marker, port, timeoutMs }: DrillWish): string {
  const what = [
    ...(marker === '' ? [] : [`the console did not say '${marker}'`]),
    ...(port === 0 ? [] : [`TCP port ${port} did not answer`]),
  ]
  return `${what.join(', and ')} within ${timeoutMs / 1000} s`
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    if (signal.aborted) resolve()
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
