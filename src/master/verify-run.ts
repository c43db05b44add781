/** One verification of a volume: the engine reads, hashes and compares; the differences are collected here. */
import { OperationError } from '../core/errors.js'
import type { Clock } from '../core/clock.js'
import type { Addon, AddonEvent } from '../native/binding.js'
import type { EventSource } from '../native/events.js'
import type { OpenVolume } from './open-volumes.js'

export interface VerifyReport {
  chunks: number
  different: number
  /** Chunks the standby could not read, with the first one's error. */
  failed: number
  error: string
  /** The first of the differing ranges. */
  differences: { offset: bigint; length: bigint }[]
}

export interface VerifyOptions {
  addon: Pick<Addon, 'verify'>
  events: EventSource
  clock: Clock
  group: number
  volume: number
  volumeIndex: number
  name: string
  /** Undefined while the standby answers; otherwise why it does not. */
  interrupted: () => string | undefined
}

const differencesMax = 1000
const checkEveryMs = 500

/** One at a time for a volume; its end is noted there. */
export async function verifyVolume(volume: OpenVolume, options: VerifyOptions): Promise<VerifyReport> {
  if (volume.verifying)
    throw new OperationError('BUSY', `verify ${options.name}: a verification is running already; wait for its end`)
  volume.verifying = true
  try {
    const report = await runVerify(options)
    const time = new Date(options.clock.wallMs()).toISOString()
    volume.lastVerify = { time, chunks: report.chunks, different: report.different }
    return report
  } finally {
    volume.verifying = false
  }
}

async function runVerify(options: VerifyOptions): Promise<VerifyReport> {
  const { addon, events, clock } = options
  const report: VerifyReport = { chunks: 0, different: 0, failed: 0, error: '', differences: [] }
  const unsubscribe = events.subscribe(event => {
    if (event.type === 'verify-result' && event.group === options.group && event.volumeIndex === options.volumeIndex)
      collect(report, event)
  })
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
    const { chunks, different } = await Promise.race([addon.verify(options.volume), interruption])
    return { ...report, chunks, different }
  } finally {
    stop()
    unsubscribe()
  }
}

function collect(report: VerifyReport, event: Extract<AddonEvent, { type: 'verify-result' }>): void {
  if (event.error !== '') {
    report.failed++
    if (report.error === '') report.error = event.error
  }
  if (!event.equal && report.differences.length < differencesMax)
    report.differences.push({ offset: event.offset, length: event.length })
}
