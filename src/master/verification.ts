/**
 * The verifications of a group: asked for, or scheduled (scrubs). What they find is in the log, in status, and on disk.
 * A scrub never repairs: that is the operator's decision (G5).
 */
import type { Clock } from '../core/clock.js'
import { describe, OperationError, UsageError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { Addon } from '../native/binding.js'
import type { EventSource } from '../native/events.js'
import type { GroupState } from './group-progress.js'
import { loadLastVerify, saveLastVerify } from './last-verify.js'
import type { OpenVolume } from './open-volumes.js'
import { Scrub } from './scrub.js'
import { type VerifyReport, type VerifyRequest, verifyVolume } from './verify-run.js'

export interface VerificationOptions {
  addon: Pick<Addon, 'verify' | 'leftOut'>
  events: EventSource
  clock: Clock
  log: Logger
  stateDirectory: string
  groupName: string
  group: number
  volumes: OpenVolume[]
  /** Undefined: no scrubs. */
  scrubEveryMs: number | undefined
  state: () => GroupState
  /** Undefined while the standby answers; otherwise why it does not. */
  interrupted: () => string | undefined
}

const rangesLogged = 100
const asked: VerifyRequest = { repair: false, bytesPerSecond: 0 }

export class Verification {
  readonly #options: VerificationOptions
  readonly #scrub: Scrub | undefined

  constructor(options: VerificationOptions) {
    this.#options = options
    const { clock, scrubEveryMs, stateDirectory, volumes } = options
    for (const volume of volumes)
      volume.lastVerify = loadLastVerify(stateDirectory, volume.config.name, volume.identity.uuid)
    if (scrubEveryMs === undefined) return
    this.#scrub = new Scrub({
      clock,
      everyMs: scrubEveryMs,
      volumes: () => volumes.map(({ config, lastVerify }) => ({ name: config.name, last: lastVerify?.time })),
      ready: () => options.state().state === 'replicating',
      run: name => this.#scrubVolume(name),
    })
  }

  async verify(name: string, request: VerifyRequest = asked): Promise<VerifyReport> {
    const { volumes, groupName, log, stateDirectory } = this.#options
    const volumeIndex = volumes.findIndex(volume => volume.config.name === name)
    const volume = volumes[volumeIndex]
    if (volume === undefined) throw new UsageError(`verify: group ${groupName} has no volume '${name}'`)
    const { state, reason } = this.#options.state()
    if (state !== 'replicating') {
      throw new OperationError(
        'NOT_REPLICATING',
        `verify ${name}: the standby has no complete copy now (${state}: ${reason}); wait until it replicates`,
      )
    }
    const report = await verifyVolume(volume, { ...this.#options, ...request, volumeIndex, name })
    this.#tell(name, report)
    try {
      if (volume.lastVerify !== null) saveLastVerify(stateDirectory, name, volume.identity.uuid, volume.lastVerify)
    } catch (error) {
      log.warn(`verify ${name}: its time is forgotten at the next start: ${describe(error)}`)
    }
    return report
  }

  close(): void {
    this.#scrub?.close()
  }

  async #scrubVolume(name: string): Promise<void> {
    const { log } = this.#options
    log.info(`scrub of volume ${name} begins`)
    try {
      const { chunks, different } = await this.verify(name)
      log.info(`scrub of volume ${name}: ${chunks} chunks, ${different} differ`)
    } catch (error) {
      log.warn(`scrub of volume ${name}: ${describe(error)}; it is tried again`)
      throw error
    }
  }

  #tell(name: string, report: VerifyReport): void {
    const { log } = this.#options
    const list = (ranges: VerifyReport['differences'], what: string): void => {
      for (const { offset, length } of ranges.slice(0, rangesLogged))
        log.error(`verify ${name}: ${length} bytes at ${offset} ${what}`)
      if (ranges.length > rangesLogged) log.error(`verify ${name}: and more`)
    }
    list(report.differences, "differ on the standby from the master's")
    list(report.unreadable, 'cannot be read on the master')
    if (report.failed > 0)
      log.error(`verify ${name}: the standby could not read ${report.failed} chunks: ${report.error}`)
    if (report.repaired > 0) log.warn(`verify ${name}: ${report.repaired} chunks repaired with the master's copy`)
  }
}
