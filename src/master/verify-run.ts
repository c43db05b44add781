/** One verification of a volume: the engine reads, hashes, compares and repairs; what it finds is collected here. */
import { OperationError } from '../core/errors.js'
import type { Clock } from '../core/clock.js'
import type { Addon, AddonEvent } from '../native/binding.js'
import { fromTable, totalBytes } from '../filter/ranges.js'
import type { EventSource } from '../native/events.js'
import { noteUnreadable, type OpenVolume } from './open-volumes.js'

export interface VerifyRequest {
  /** What differs is sent anew: the master's copy wins. */
  repair: boolean
  /** 0: as the clients leave room. */
  bytesPerSecond: number
}

export interface FoundRange {
  offset: bigint
  length: bigint
}

export interface VerifyReport {
  chunks: number
  different: number
  /** Of the different ones: sent anew, and found equal afterwards. */
  repaired: number
  /** Of the master's device: not compared. */
  unreadableBytes: number
  /** Chunks the standby could not read, with the first one's error. */
  failed: number
  error: string
  /** The first of the differing ranges, and of those that the master could not read. */
  differences: FoundRange[]
  unreadable: FoundRange[]
  /** What the filter left out when it ended: there the standby was found to have zeroes. The first ranges, and all bytes. */
  leftOut: FoundRange[]
  leftOutBytes: bigint
}

export interface VerifyOptions extends VerifyRequest {
  addon: Pick<Addon, 'verify' | 'leftOut'>
  events: EventSource
  clock: Clock
  group: number
  volumeIndex: number
  name: string
  /** Undefined while the standby answers; otherwise why it does not. */
  interrupted: () => string | undefined
}

const rangesMax = 1000
const checkEveryMs = 500

/** One at a time for a volume; its end is noted there. */
export async function verifyVolume(volume: OpenVolume, options: VerifyOptions): Promise<VerifyReport> {
  if (volume.verifying)
    throw new OperationError('BUSY', `verify ${options.name}: a verification is running already; wait for its end`)
  volume.verifying = true
  try {
    const found = await runVerify(volume.handle, options)
    const left = fromTable(await options.addon.leftOut(volume.handle))
    const report = {
      ...found,
      leftOut: left.slice(0, rangesMax).map(({ start, end }) => ({ offset: start, length: end - start })),
      leftOutBytes: totalBytes(left),
    }
    const { chunks, different, repaired, unreadableBytes } = report
    const time = new Date(options.clock.wallMs()).toISOString()
    volume.unreadable = []
    for (const range of report.unreadable) noteUnreadable(volume, range)
    volume.lastVerify = { time, chunks, different, repaired, unreadableBytes }
    return report
  } finally {
    volume.verifying = false
  }
}

type Compared = Omit<VerifyReport, 'leftOut' | 'leftOutBytes'>

async function runVerify(handle: number, options: VerifyOptions): Promise<Compared> {
  const { addon, events, clock, repair, bytesPerSecond } = options
  const found = { failed: 0, error: '', differences: [], unreadable: [] }
  const unsubscribe = events.subscribe(event => collect(found, event, handle, options))
  let stop = (): void => undefined
  const interruption = new Promise<never>((_, reject) => {
    stop = clock.every(checkEveryMs, () => {
      const why = options.interrupted()
      if (why !== undefined)
        reject(
          new OperationError(
            'VERIFY_INTERRUPTED',
            `verify ${options.name}: interrupted: ${why}; try again when it replicates`,
          ),
        )
    })
  })
  try {
    const outcome = await Promise.race([addon.verify(handle, { repair, bytesPerSecond }), interruption])
    return { ...found, ...outcome }
  } finally {
    stop()
    unsubscribe()
  }
}

type Found = Pick<VerifyReport, 'failed' | 'error' | 'differences' | 'unreadable'>

function collect(found: Found, event: AddonEvent, handle: number, options: VerifyOptions): void {
  const add = (list: FoundRange[], { offset, length }: FoundRange): void => {
    if (list.length < rangesMax) list.push({ offset, length })
  }
  if (event.type === 'device-error' && event.volume === handle && event.operation === 'verify read')
    add(found.unreadable, event)
  if (event.type !== 'verify-result' || event.group !== options.group || event.volumeIndex !== options.volumeIndex)
    return
  if (event.error !== '') {
    found.failed++
    if (found.error === '') found.error = event.error
  }
  if (!event.equal) add(found.differences, event)
}
