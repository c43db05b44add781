/**
 * --on-event CMD: tells a cluster manager, a pager or a script what has become of a volume.
 *
 * What the status shows is looked at every second, and a change is an event; other parts say theirs with tell(). Commands
 * run one after the other, in the order of the events, by `sh -c`: the event is in the environment (UNDERSTUDY_EVENT,
 * _VOLUME, _GROUP, _ROLE, _STATE, _REASON), and on stdin as one line of JSON.
 * Guarantees: nothing waits for a command; one that takes longer than 30 s is killed with all it has started; at most 64
 * events wait, and of what is beyond that the log says so. What it was at the start, and what lasted less than a second, is no event.
 */
import { spawn } from 'node:child_process'

import type { Clock } from '../core/clock.js'
import { describe } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { killGroup } from '../core/process-group.js'
import type { VolumeStatus } from '../core/status-types.js'
import type { Machine } from '../recovery/definition.js'
import type { DrillResult } from '../recovery/drill-file.js'

export interface EventCommandDeps {
  command: string
  clock: Clock
  log: Logger
  status: () => readonly VolumeStatus[]
  limitMs?: number
}

/** `details` are for the JSON alone. */
export interface DaemonEvent {
  event: string
  volume: string
  group: string
  role: string
  state: string
  reason: string
  details?: object
}

/** The volumes of a machine are not told apart. */
export function drillEvent({ name, group }: Pick<Machine, 'name' | 'group'>, result: DrillResult): DaemonEvent {
  const { passed, reason } = result
  return {
    ...{ event: passed ? 'drill-passed' : 'drill-failed', volume: '', group, role: 'standby', state: '', reason },
    details: { machine: name, drill: result },
  }
}

type Facts = Pick<VolumeStatus, 'role' | 'state' | 'protected' | 'usable'>

const lookMs = 1000
const waitingMax = 64
const runMs = 30_000
const outputMax = 2000
const lingerMs = 200

export class EventCommand {
  readonly #before = new Map<string, Facts>()
  readonly #waiting: DaemonEvent[] = []
  readonly #cancel: () => void
  #kill: (() => void) | undefined
  #dropped = 0
  #stopped = false

  constructor(private readonly deps: EventCommandDeps) {
    this.#look()
    this.#cancel = deps.clock.every(lookMs, () => this.#look())
  }

  tell(event: DaemonEvent): void {
    if (this.#stopped) return
    if (this.#waiting.length >= waitingMax) {
      if (this.#dropped++ === 0)
        this.deps.log.error(`${waitingMax} events wait for --on-event; what comes now is not told`)
      return
    }
    this.#waiting.push(event)
    this.#next()
  }

  /** What runs is killed; what waits is not told. */
  stop(): void {
    this.#stopped = true
    this.#cancel()
    this.#waiting.length = 0
    this.#kill?.()
  }

  #look(): void {
    const volumes = this.deps.status()
    for (const volume of volumes) {
      const { name, group, role, state, reason } = volume
      const before = this.#before.get(name)
      this.#before.set(name, { role, state, protected: volume.protected, usable: volume.usable })
      if (before === undefined) continue
      for (const event of changes(before, volume)) this.tell({ event, volume: name, group, role, state, reason })
    }
    const names = new Set(volumes.map(({ name }) => name))
    for (const name of this.#before.keys()) if (!names.has(name)) this.#before.delete(name)
  }

  #next(): void {
    const event = this.#kill === undefined ? this.#waiting.shift() : undefined
    if (event === undefined) return
    if (this.#waiting.length === 0 && this.#dropped > 0) {
      this.deps.log.error(`${this.#dropped} events were not told to --on-event`)
      this.#dropped = 0
    }
    this.#run(event)
  }

  #run(event: DaemonEvent): void {
    const { command, clock, log, limitMs = runMs } = this.deps
    const named = `--on-event for ${event.event} of ${event.volume || event.group}`
    const { details, ...facts } = event
    const env = { ...process.env }
    for (const [key, value] of Object.entries(facts)) env[`UNDERSTUDY_${key.toUpperCase()}`] = value
    const child = spawn('sh', ['-c', command], {
      env,
      detached: true, // a group of its own, so that what it starts is killed with it
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    let output = ''
    const keep = (chunk: Buffer): void => void (output = (output + chunk.toString()).slice(-outputMax))
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    child.stdin.on('error', () => undefined) // it does not read
    child.stdin.end(`${JSON.stringify({ ...facts, time: new Date(clock.wallMs()).toISOString(), ...details })}\n`)
    let isLate = false
    const kill = (): void => killGroup(child)
    const cancel = clock.after(limitMs, () => {
      isLate = true
      kill()
    })
    let ending = ''
    this.#kill = kill
    child.once('error', error => (ending = describe(error)))
    child.once('exit', (code, signal) => {
      if (isLate) ending = `killed, it took longer than ${limitMs / 1000} s`
      else if (code !== 0) ending = `it ended with ${code === null ? signal : `exit code ${code}`}`
      // What it has started, and goes on, may hold its pipes open.
      clock.after(lingerMs, () => [child.stdout, child.stderr].forEach(pipe => pipe.destroy()))
    })
    child.once('close', () => {
      cancel()
      this.#kill = undefined
      if (ending !== '' && !this.#stopped)
        log.warn(`${named}: ${ending}${output === '' ? '' : `: ${output.trimEnd()}`}`)
      this.#next()
    })
  }
}

/** What somebody would want to hear of, the gravest first. */
function changes(before: Facts, after: Facts): string[] {
  const events: string[] = []
  if (before.role !== after.role) events.push(after.role === 'master' ? 'promoted' : 'demoted')
  if (before.state !== after.state && ['diverged', 'detached'].includes(after.state)) events.push(after.state)
  if (before.usable !== after.usable) events.push(after.usable ? 'usable' : 'unusable')
  if (before.protected !== after.protected) events.push(after.protected ? 'protected' : 'unprotected')
  return events
}
