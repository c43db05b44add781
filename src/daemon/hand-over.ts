/**
 * The phases in which a daemon hands over to its successor, and the way back from each:
 *
 *   prepare   what is in memory goes to the disks: clients notice nothing       | failed: nothing has happened
 *   settle    nobody new is accepted; handshakes end                             | failed: resume
 *   pause     no request is read, those that were are answered, and flushed      | late: resume, and again a moment later
 *   release   devices and copies are closed; the estate is all there is          | failed: resume
 *   offer     the successor has the estate, opens all, and says that it is ready | failed, late, gone: it is ended,
 *   yours     it is told to serve. This daemon ends.                             |   and everything is opened here again
 *
 * Guarantees: at every moment exactly one of the two may answer clients: the successor from `yours` on. Clients wait from
 * `pause` on, for at most `maxStallMs` with the way back included, as far as that can be seen to: what waits for a disk
 * is in `pause`, which is undone at once, and gets the first half; `release` and what follows only open and close files,
 * and two fifths of what is left then are kept for the way back, which opens the same files.
 */
import { type Clock, sleep } from '../core/clock.js'
import { describe, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { Estate } from './estate.js'

/** The daemon that runs. */
export interface Incumbent {
  /** False: it has no clients that could wait. */
  readonly hasClients: boolean
  prepare(): Promise<void>
  settle(): Promise<void>
  /** What it was that took longer than the time; undefined: every request is answered, and all of it is on disk. */
  pause(limitMs: number): Promise<string | undefined>
  /** Undoes settle() and pause(). */
  resume(): void
  /** Rejects with nothing released. */
  release(): Promise<Estate>
  /** Goes on with what was released. */
  reopen(estate: Estate): Promise<void>
}

/** The process that wants to go on. */
export interface Successor {
  /** It gives up by itself when it is not ready within the time. Clients wait since `waitedMs`. */
  offer(estate: Estate, readyMs: number, waitedMs: number): Promise<void>
  /** Rejects when it says that it failed, has ended, or says nothing within the time. */
  ready(limitMs: number): Promise<void>
  /** When it resolves the successor will serve, whatever happens to this process. */
  yours(): Promise<void>
  /** Told, as far as it still hears. */
  kept(why: string): Promise<void>
  /** It has nothing open when it resolves, and is no more unless it said itself that it failed. */
  end(): Promise<void>
}

export interface HandOverOptions {
  incumbent: Incumbent
  successor: Successor
  /** How long clients may wait, at one go. */
  maxStallMs: number
  clock: Clock
  log: Logger
  /** Clients have waited so long, or nobody knows yet how long they will: everything is the successor's. */
  stalled: (milliseconds: number) => void
}

/** gone: the successor serves; kept: this daemon does; lost: neither, and this process can only end. */
export type HandOverOutcome = 'gone' | 'kept' | 'lost'

export const pauseAttempts = 5
export const betweenPausesMs = 500
/** Where no clients wait: masters find another session. */
const withoutClientsMs = 10_000
/** Of the time that is left when everything is closed. What remains of it is for the way back. */
const readyShare = 0.4
const silenceShare = 0.6

export async function handOver(options: HandOverOptions): Promise<HandOverOutcome> {
  const { incumbent, successor, log } = options
  const stall = new Stall(options)
  let estate: Estate
  try {
    await pauseInTime(options, stall)
    estate = await incumbent.release()
  } catch (error) {
    incumbent.resume()
    stall.end()
    log.warn(`takeover: not carried out: ${describe(error)}; this daemon goes on`)
    await successor.kept(describe(error))
    return 'kept'
  }
  const [closedMs, left] = [stall.soFarMs, stall.leftMs]
  try {
    await successor.offer(estate, left * readyShare, closedMs)
    await successor.ready(left * silenceShare)
    await successor.yours()
    const waited = stall.end()
    log.info(
      `takeover: everything is handed over; clients waited ${waited} ms (${Math.round(closedMs)} to close everything)`,
    )
    return 'gone'
  } catch (error) {
    return takeBack(options, stall, estate, `${describe(error)} (closing took ${Math.round(closedMs)} ms)`)
  }
}

/** Returns with clients that wait, and nothing that is on its way. */
async function pauseInTime({ incumbent, clock, maxStallMs }: HandOverOptions, stall: Stall): Promise<void> {
  const limitMs = stall.maxMs / 2
  let slow: string | undefined
  for (let attempt = 1; attempt <= pauseAttempts; attempt++) {
    if (attempt > 1) await sleep(clock, betweenPausesMs)
    await incumbent.prepare()
    await incumbent.settle()
    stall.begin()
    slow = await incumbent.pause(limitMs)
    if (slow === undefined) return
    incumbent.resume()
    stall.end()
  }
  throw new OperationError(
    'TOO_SLOW',
    `takeover: given up: ${slow ?? ''} takes longer than ${Math.round(limitMs)} ms, half of the ${maxStallMs} ms that clients may wait (${pauseAttempts} attempts, they waited for ${stall.longestMs} ms at most); try again later, or let them wait longer: --max-stall ${larger(maxStallMs)}`,
  )
}

async function takeBack(options: HandOverOptions, stall: Stall, estate: Estate, why: string): Promise<HandOverOutcome> {
  const { incumbent, successor, log, maxStallMs } = options
  log.warn(`takeover: the successor does not serve: ${why}; this daemon takes everything back`)
  await successor.end()
  try {
    await incumbent.reopen(estate)
  } catch (error) {
    log.error(`takeover: what was released cannot be opened again: ${describe(error)}`)
    return 'lost'
  }
  const waited = stall.end()
  log.info(`takeover: everything is open again, clients go on; they waited ${waited} ms`)
  await successor.kept(
    `${why}; clients waited ${waited} ms and may wait ${maxStallMs}: try again later, or let them wait longer: --max-stall ${larger(maxStallMs)}`,
  )
  return 'kept'
}

/** A value for --max-stall that is worth a try. */
export const larger = (milliseconds: number): string => `${Math.ceil((milliseconds * 4) / 1000)}s`

/** Between begin() and end() clients wait. */
class Stall {
  readonly maxMs: number
  longestMs = 0
  #began: number | undefined

  constructor(private readonly options: HandOverOptions) {
    const { incumbent, maxStallMs } = options
    this.maxMs = incumbent.hasClients ? maxStallMs : Math.max(maxStallMs, withoutClientsMs)
  }

  get soFarMs(): number {
    return this.#began === undefined ? 0 : this.options.clock.monotonicMs() - this.#began
  }

  get leftMs(): number {
    return Math.max(0, this.maxMs - this.soFarMs)
  }

  begin(): void {
    this.#began = this.options.clock.monotonicMs()
  }

  /** How long it was, for people. */
  end(): number {
    const { incumbent, log, stalled } = this.options
    if (this.#began === undefined) return 0
    const waited = this.soFarMs
    this.#began = undefined
    this.longestMs = Math.max(this.longestMs, Math.round(waited))
    if (incumbent.hasClients) stalled(waited)
    if (waited > this.maxMs)
      log.warn(`takeover: clients waited ${Math.round(waited)} ms, which is longer than the ${this.maxMs} ms allowed`)
    return Math.round(waited)
  }
}
