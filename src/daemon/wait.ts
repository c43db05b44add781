/** When `understudy wait` is over: a condition on the status of a volume, looked at until it holds. */
import { OperationError } from '../core/errors.js'
import type { VolumeStatus } from '../core/status-types.js'
import { formatDuration, formatSize } from '../core/units.js'
import type { WaitCondition, WaitEvent, WaitRequest } from './control-protocol.js'

const pollMs = 20
const progressMs = 500

export interface WaitOptions {
  status(volume: string): VolumeStatus[]
  /** A standby does not know a volume before its master has come. */
  mayAppear: boolean
  signal: AbortSignal
  report(event: WaitEvent): void
}

/** Resolves when the condition holds (or the caller has gone); rejects when the time is over or it can never hold. */
export async function waitFor(request: WaitRequest, options: WaitOptions): Promise<void> {
  const started = Date.now()
  let reported = -Infinity
  while (!options.signal.aborted) {
    const volumes = options.status(request.volume)
    if (volumes.length === 0 && !options.mayAppear)
      throw new OperationError('NO_VOLUME', `wait: there is no volume '${request.volume}' here`)
    const missing = volumes.length === 0 ? 'its master has not connected yet' : firstMissing(request.for, volumes)
    if (missing === undefined) return options.report({ done: true, missing: '', volumes })
    const waited = Date.now() - started
    if (request.timeoutMs !== null && waited >= request.timeoutMs) {
      throw new OperationError(
        'WAIT_TIMEOUT',
        `wait: volume '${request.volume}' is not ${request.for} after ${formatDuration(waited)}: ${missing}`,
      )
    }
    if (Date.now() - reported >= progressMs) {
      reported = Date.now()
      options.report({ done: false, missing, volumes })
    }
    await new Promise(resolve => setTimeout(resolve, pollMs))
  }
}

function firstMissing(condition: WaitCondition, volumes: VolumeStatus[]): string | undefined {
  for (const volume of volumes) {
    if (volume.state === 'alone')
      throw new OperationError('ALONE', `wait: volume '${volume.name}' has no standby (--standby ID@HOST:PORT)`)
    const missing = missingFor(condition, volume)
    if (missing !== undefined) return missing
  }
  return undefined
}

/** What keeps the condition from holding, or undefined when it does. */
export function missingFor(condition: WaitCondition, volume: VolumeStatus): string | undefined {
  switch (condition) {
    case 'usable':
      return volume.usable ? undefined : stateOf(volume)
    case 'protected':
      return volume.protected ? undefined : stateOf(volume)
    case 'drained':
      if (volume.applied === volume.written && volume.dirtyBytes === 0) return undefined
      return `${formatSize(volume.lagBytes)} behind, ${formatSize(volume.dirtyBytes)} dirty; ${stateOf(volume)}`
  }
}

function stateOf(volume: VolumeStatus): string {
  const { resync } = volume
  const progress = resync === null ? '' : ` ${formatSize(resync.doneBytes)} of ${formatSize(resync.totalBytes)}`
  return `it is ${volume.state}${progress}${volume.reason === '' ? '' : ` (${volume.reason})`}`
}
