/**
 * The phases in which a daemon hands over to its successor, and the way back from each:
 *
 *   prepare   what is in memory goes to the disks: clients notice nothing       | failed: nothing has happened
 *   settle    nobody new is accepted; handshakes end                             | failed: resume
 *   pause     no request is read, those that were are answered                   | late: resume, and again a moment later
 *   release   devices and copies are closed; the estate is all there is          | failed: resume
 *   offer     the successor has the estate, opens all, and says that it is ready | failed, silent, gone: it is ended,
 *   yours     it is told to serve. This daemon ends.                             |   and everything is opened here again
 *
 * Guarantees: at every moment exactly one of the two may answer clients: the successor from `yours` on. Clients wait from
 * `pause` on, at most for the limits of what follows.
 */
import { type Clock, sleep } from '../core/clock.js'
import { describe, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { Estate } from './estate.js'

/** The daemon that runs. */
export interface Incumbent {
  prepare(): Promise<void>
  settle(): Promise<void>
  /** False: what was read could not be answered within the time. */
  pause(limitMs: number): Promise<boolean>
  /** Undoes settle() and pause(). */
  resume(): void
  /** Rejects with nothing released. */
  release(): Promise<Estate>
  /** Goes on with what was released. */
  reopen(estate: Estate): Promise<void>
}

/** The process that wants to go on. */
export interface Successor {
  offer(estate: Estate): Promise<void>
  /** Rejects when it says that it failed, has ended, or says nothing within the time. */
  ready(limitMs: number): Promise<void>
  /** When it resolves the successor will serve, whatever happens to this process. */
  yours(): Promise<void>
  /** Told, as far as it still hears. */
  kept(why: string): Promise<void>
  /** It is no more, nor has anything open, when it resolves. */
  end(): Promise<void>
}

export interface HandOverOptions {
  incumbent: Incumbent
  successor: Successor
  clock: Clock
  log: Logger
}

/** gone: the successor serves; kept: this daemon does; lost: neither, and this process can only end. */
export type HandOverOutcome = 'gone' | 'kept' | 'lost'

/** What was read is answered within so long, or clients go on for a moment before the next try. */
export const pauseMs = 250
export const pauseAttempts = 8
export const betweenPausesMs = 500
/** Of the successor, with everything loaded, to open devices and files. */
export const readyMs = 5_000

export async function handOver(options: HandOverOptions): Promise<HandOverOutcome> {
  const { incumbent, successor, clock, log } = options
  let began: number
  let estate: Estate
  try {
    await incumbent.prepare()
    await incumbent.settle()
    began = await pauseInTime(options)
    estate = await incumbent.release()
  } catch (error) {
    incumbent.resume()
    log.warn(`takeover: not carried out: ${describe(error)}; this daemon goes on`)
    await successor.kept(describe(error))
    return 'kept'
  }
  try {
    await successor.offer(estate)
    await successor.ready(readyMs)
    await successor.yours()
    log.info(`takeover: everything is handed over; clients waited ${Math.round(clock.monotonicMs() - began)} ms`)
    return 'gone'
  } catch (error) {
    return takeBack(options, estate, describe(error))
  }
}

/** Returns when the pause began. */
async function pauseInTime({ incumbent, clock }: HandOverOptions): Promise<number> {
  for (let attempt = 1; ; attempt++) {
    const began = clock.monotonicMs()
    if (await incumbent.pause(pauseMs)) return began
    incumbent.resume()
    if (attempt === pauseAttempts) break
    await sleep(clock, betweenPausesMs)
    await incumbent.prepare()
    await incumbent.settle()
  }
  throw new OperationError(
    'BUSY',
    `takeover: requests of clients were not answered within ${pauseMs} ms, ${pauseAttempts} times (a slow disk, or replies that wait for a standby); try again later`,
  )
}

async function takeBack(options: HandOverOptions, estate: Estate, why: string): Promise<HandOverOutcome> {
  const { incumbent, successor, log } = options
  log.warn(`takeover: the successor does not serve: ${why}; this daemon takes everything back`)
  await successor.kept(why)
  await successor.end()
  try {
    await incumbent.reopen(estate)
    log.info('takeover: everything is open again, clients go on')
    return 'kept'
  } catch (error) {
    log.error(`takeover: what was released cannot be opened again: ${describe(error)}`)
    return 'lost'
  }
}
