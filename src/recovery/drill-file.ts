/**
 * STORE/.groups/GROUP/drills.json: how the last drills of the group's machines ended, and which are repeated. What is
 * damaged is reported and begun anew: no drill is kept from running by what an earlier one left.
 */
import { join } from 'node:path'

import { readJson, writeJson } from '../core/atomic-file.js'
import { describe } from '../core/errors.js'
import type { Logger } from '../core/log.js'

export interface DrillResult {
  /** ISO 8601 */
  startedAt: string
  passed: boolean
  /** Somebody has ended it, so that nothing is known of the machine: neither passed nor failed, and not kept. */
  stopped?: true
  /** What was seen, or why it failed. */
  reason: string
  /** From the request to the marker, or to the end. */
  seconds: number
  /** Of the disks; null: it did not come so far. */
  position: { incarnation: string; sequence: string } | null
  /** As typed; '': the newest. */
  at: string
  /** The console's last lines. */
  console: string[]
}

export const howItEnded = ({ passed, stopped }: DrillResult): string =>
  stopped ? 'stopped' : passed ? 'passed' : 'FAILED'

/** What a drill waits for. */
export interface DrillWish {
  /** On the console; '': none. */
  marker: string
  /** A TCP port in the guest; 0: none. */
  port: number
  timeoutMs: number
}

export interface DrillSchedule extends DrillWish {
  everyMs: number
  /** As typed, and found anew each time; '' (or missing: of an older version): the newest. */
  at?: string
}

interface Stored {
  /** By machine, the newest first. */
  results: Record<string, DrillResult[]>
  schedules: Record<string, DrillSchedule>
}

const keptResults = 20

export class DrillFile {
  readonly #path: string
  readonly #stored: Stored

  constructor(groupDirectory: string, log: Logger) {
    this.#path = join(groupDirectory, 'drills.json')
    this.#stored = { results: {}, schedules: {} }
    try {
      Object.assign(this.#stored, pick(readJson(this.#path)))
    } catch (error) {
      log.error(`drills: ${describe(error)}`)
    }
  }

  results(machine: string): readonly DrillResult[] {
    return this.#stored.results[machine] ?? []
  }

  add(machine: string, result: DrillResult): void {
    this.#stored.results[machine] = [result, ...this.results(machine)].slice(0, keptResults)
    this.#save()
  }

  scheduleOf(machine: string): DrillSchedule | undefined {
    return this.#stored.schedules[machine]
  }

  /** `schedule` undefined: no more. */
  schedule(machine: string, schedule: DrillSchedule | undefined): void {
    delete this.#stored.schedules[machine]
    if (schedule !== undefined) this.#stored.schedules[machine] = schedule
    this.#save()
  }

  #save(): void {
    writeJson(this.#path, { version: 1, ...this.#stored })
  }
}

function pick(stored: Record<string, unknown> | undefined): Partial<Stored> {
  const { results, schedules } = (stored ?? {}) as Partial<Stored>
  return { ...(isTable(results) && { results }), ...(isTable(schedules) && { schedules }) }
}

const isTable = (value: unknown): boolean => typeof value === 'object' && value !== null && !Array.isArray(value)
