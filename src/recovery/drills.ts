/**
 * Drills: a machine on views of its group's copies, all at one position, while replication goes on; and those that are
 * repeated. What a daemon was doing when it was killed is a failed drill that says so.
 */
import { randomBytes } from 'node:crypto'

import { describe, OperationError, SafetyRefusal, UsageError } from '../core/errors.js'
import { runDrill } from './drill.js'
import { DrillFile, howItEnded, type DrillResult, type DrillSchedule, type DrillWish } from './drill-file.js'
import { networkFor } from './guest-port.js'
import { Qemu, requireQemu } from './qemu.js'
import { RunFolder } from './run-folder.js'
import { controlArguments, disksAt, type Stage, throwAwayArguments, viewFor } from './stage.js'
import type { Viewer } from '../standby/views.js'
import type { NextDrill } from './listing.js'
import type { Found } from './machines.js'

export interface DrillRequest extends DrillWish {
  machine: string
  /** A moment; '': the newest. */
  at: string
}

export interface DrillFigures {
  machine: string
  group: string
  running: number
  passed: number
  failed: number
  last: DrillResult | undefined
}

/** Each is a machine's memory, and a processor. */
const drillsMax = 8
const scheduleTickMs = 1_000

interface RunningDrill {
  machine: string
  group: string
  abort: AbortController
  done: Promise<unknown>
}

export class Drills {
  readonly #running = new Set<RunningDrill>()
  readonly #files = new Map<string, DrillFile>()
  readonly #counts = new Map<string, { passed: number; failed: number }>()
  readonly #stop: () => void
  /** Groups that are being promoted: none of theirs begins. */
  readonly #barred = new Set<string>()
  #repeating = false
  #closing = false

  constructor(private readonly stage: Stage) {
    this.#stop = stage.clock.every(scheduleTickMs, () => this.#repeat())
  }

  /** Resolves with how it ended. Throws when it could not be begun. */
  async run(request: DrillRequest, signal?: AbortSignal): Promise<DrillResult> {
    const action = `vm drill ${request.machine}`
    const found = this.stage.machines.find(action, request.machine)
    this.#judge(action, request, found)
    const { name, group } = found.machine
    const abort = new AbortController()
    const cancel = (): void => abort.abort('it was given up by who asked for it')
    if (signal?.aborted === true) cancel()
    signal?.addEventListener('abort', cancel, { once: true })
    const done = this.#run(found, request, abort.signal)
    const running = { machine: name, group, abort, done: done.catch(() => undefined) }
    this.#running.add(running)
    try {
      return await done
    } finally {
      this.#running.delete(running)
      signal?.removeEventListener('abort', cancel)
    }
  }

  isRunning(machine: string): boolean {
    return [...this.#running].some(running => running.machine === machine)
  }

  #judge(action: string, { marker, port }: DrillRequest, { machine }: Found): void {
    if (this.#closing) throw new OperationError('STOPPING', `${action}: the daemon is stopping`)
    if (marker === '' && port === 0)
      throw new UsageError(`${action}: what is it to wait for? --marker TEXT on the console, or --port N`)
    if (this.stage.copies().isPromoted(machine.group))
      throw new SafetyRefusal(
        'IS_MASTER',
        `${action}: this host is the master of group ${machine.group}; a drill is of a standby's copy`,
      )
    if (this.#barred.has(machine.group))
      throw new SafetyRefusal('PROMOTING', `${action}: group ${machine.group} is being promoted`)
    requireQemu(action)
    if (this.#running.size < drillsMax) return
    throw new OperationError('BUSY', `${action}: ${drillsMax} drills are running already; wait for one to end`)
  }

  async #run({ machine, copy }: Found, wish: DrillRequest, signal: AbortSignal): Promise<DrillResult> {
    const { clock, log } = this.stage
    const { directory } = copy
    const beganMs = clock.monotonicMs()
    const startedAt = new Date(clock.wallMs()).toISOString()
    const folder = RunFolder.make(directory, `${machine.name}.${randomBytes(4).toString('hex')}`, {
      ...{ machine: machine.name, kind: 'drill', state: 'starting', prints: false, since: startedAt },
    })
    try {
      const view = await viewFor(drillOf(machine.name), this.stage, machine, wish.at)
      try {
        const listener = this.stage.listen(folder.disks, view.exported)
        try {
          const volumes = view.exported.map(({ name }) => name)
          const accelerator = await this.stage.machines.accelerator.look()
          const args = throwAwayArguments(machine, disksAt(folder.disks, volumes, true), accelerator, [
            ...controlArguments(folder.monitor, folder.pidFile),
            ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console', '-no-reboot'],
            ...(wish.port === 0 ? [] : networkFor(wish.port)),
          ])
          log.info(`vm drill ${machine.name}: runs at sequence ${view.position.sequence}`)
          const outcome = await runDrill(args, folder, wish, signal, clock)
          const seconds = (clock.monotonicMs() - beganMs) / 1000
          const result = { startedAt, ...outcome, seconds, position: view.position, at: wish.at }
          this.#note(directory, machine.name, result)
          if (!result.stopped) this.stage.drilled?.(machine, result)
          return result
        } finally {
          listener.close()
        }
      } finally {
        await view.close()
      }
    } finally {
      folder.remove()
    }
  }

  #note(directory: string, machine: string, result: DrillResult): void {
    const { passed, stopped, seconds, reason } = result
    const line = `vm drill ${machine}: ${howItEnded(result)} after ${seconds.toFixed(1)} s: ${reason}`
    if (stopped) return this.stage.log.info(`${line}; it counts neither as passed nor as failed`)
    if (passed) this.stage.log.info(line)
    else this.stage.log.error(line)
    this.#countsOf(machine)[passed ? 'passed' : 'failed']++
    this.#file(directory).add(machine, result)
  }

  /** What ran on views when a daemon was killed. */
  async cleanUp(directory: string, folder: RunFolder): Promise<void> {
    await Qemu.find(folder.pidFile, this.stage.clock)?.end()
    const { machine, kind, since } = folder.record
    folder.remove()
    if (kind !== 'drill') return
    this.#note(directory, machine, {
      ...{ startedAt: since, passed: false, seconds: 0, position: null, at: '', console: [] },
      reason: 'the daemon was ended in the middle of it',
    })
  }

  /** `schedule` undefined: not any more. */
  setSchedule(machine: string, schedule: DrillSchedule | undefined): void {
    const { directory } = this.stage.machines.find('vm drill', machine).copy
    this.#file(directory).schedule(machine, schedule)
  }

  last(machine: string): DrillResult | undefined {
    const { directory } = this.stage.machines.find('vm', machine).copy
    return this.#file(directory).results(machine)[0]
  }

  /** Null: its drills are not repeated. */
  next(machine: string): NextDrill | null {
    const found = this.stage.machines.find('vm', machine)
    const schedule = this.#file(found.copy.directory).scheduleOf(machine)
    if (schedule === undefined) return null
    const isPromoted = this.stage.copies().isPromoted(found.machine.group)
    const dueAt = isPromoted ? null : new Date(this.#dueMs(found, schedule)).toISOString()
    return { dueAt, everySeconds: schedule.everyMs / 1000, at: schedule.at ?? '' }
  }

  figures(machines: readonly Found[]): DrillFigures[] {
    return machines.map(({ machine: { name, group }, copy }) => ({
      ...{ machine: name, group, running: [...this.#running].filter(({ machine }) => machine === name).length },
      ...this.#countsOf(name),
      last: this.#file(copy.directory).results(name)[0],
    }))
  }

  /** Ends those of a group, and resolves when their views are closed. None begins until the returned function is called. */
  async bar(group: string, reason: string): Promise<() => void> {
    this.#barred.add(group)
    await this.#abort(reason, running => running.group === group)
    return () => void this.#barred.delete(group)
  }

  /** One that is repeated is due again at once. */
  async #abort(reason: string, which: (running: RunningDrill) => boolean = () => true): Promise<void> {
    const ending = [...this.#running].filter(which)
    for (const { abort } of ending) abort.abort(reason)
    await Promise.all(ending.map(({ done }) => done))
  }

  async close(reason: string): Promise<void> {
    this.#closing = true
    this.#stop()
    await this.#abort(reason)
  }

  /** One after the other: a night's drills are not to be one moment's load. */
  #repeat(): void {
    if (this.#repeating || this.#closing) return
    const due = this.#due()
    if (due === undefined) return
    this.#repeating = true
    this.run(due)
      .catch((error: unknown) => this.#couldNotBegin(due, error))
      .finally(() => (this.#repeating = false))
  }

  #due(): DrillRequest | undefined {
    for (const found of this.stage.machines.list(() => undefined)) {
      const { name, group } = found.machine
      const schedule = this.#file(found.copy.directory).scheduleOf(name)
      if (schedule === undefined || this.#barred.has(group) || this.stage.copies().isPromoted(group)) continue
      if (this.stage.clock.wallMs() >= this.#dueMs(found, schedule)) return { machine: name, at: '', ...schedule }
    }
    return undefined
  }

  /** Since 1970; the first one is due at once. */
  #dueMs({ machine, copy }: Found, { everyMs }: DrillSchedule): number {
    const [last] = this.#file(copy.directory).results(machine.name)
    const lastMs = Date.parse(last?.startedAt ?? '')
    return Number.isNaN(lastMs) ? this.stage.clock.wallMs() : lastMs + everyMs
  }

  /** It counts as a drill that failed, or it would be tried again every second. */
  #couldNotBegin({ machine }: DrillRequest, error: unknown): void {
    try {
      const { directory } = this.stage.machines.find('vm drill', machine).copy
      this.#note(directory, machine, {
        startedAt: new Date(this.stage.clock.wallMs()).toISOString(),
        ...{ passed: false, reason: describe(error), seconds: 0, position: null, at: '', console: [] },
      })
    } catch (lost) {
      this.stage.log.error(`vm drill ${machine}: ${describe(lost)}`)
    }
  }

  #countsOf(machine: string): { passed: number; failed: number } {
    const counts = this.#counts.get(machine) ?? { passed: 0, failed: 0 }
    this.#counts.set(machine, counts)
    return counts
  }

  #file(directory: string): DrillFile {
    const file = this.#files.get(directory) ?? new DrillFile(directory, this.stage.log)
    this.#files.set(directory, file)
    return file
  }
}

const drillOf = (machine: string): Viewer => ({
  action: `vm drill ${machine}`,
  holds: `a drill of machine ${machine} runs on the copy; wait for its end, or end it with Ctrl-C where it was asked for`,
})
