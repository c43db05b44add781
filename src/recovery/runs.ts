/**
 * Machines that were put on stage: `understudy vm start` and `stop`.
 *
 * A promoted one (its group's images are its disks, and every write is captured as any master's):
 *   1. RUN/run.json says starting   2. the group is promoted, by the rules of a promotion   3. its disks are served
 *   4. QEMU runs                    5. run.json says running
 * After a crash before 2 nothing was done, and nothing is left; after it the next daemon goes on. QEMU outlives the
 * daemon, and waits while nobody serves its disks.
 *
 * One that is thrown away runs on a view, and ends with the daemon.
 *
 * Guarantees: of two requests one starts it; a group's images are one machine's.
 */
import { describe, failureOf, OperationError, SafetyRefusal } from '../core/errors.js'
import type { ExportedVolume } from '../standby/open-volumes.js'
import type { Viewer } from '../standby/views.js'
import type { Machine } from './definition.js'
import { machineSocket, qemuArguments, qemuProgram } from './command-line.js'
import type { Drills } from './drills.js'
import { disksOf, type Found } from './machines.js'
import { Qemu, requireQemu } from './qemu.js'
import { Qmp } from './qmp.js'
import { RunFolder, type RunKind, type RunState } from './run-folder.js'
import { controlArguments, disksAt, type Stage, throwAwayArguments, viewFor } from './stage.js'

export interface StartRequest {
  machine: string
  acceptLoss: boolean
  force: boolean
  /** QEMU is not started: what to run is said. */
  print: boolean
  /** On views, without a promotion. */
  throwAway: boolean
  /** A moment: of the views, or of the promotion; '': the newest. */
  at: string
}

export interface Started {
  /** For people. */
  messages: string[]
  /** URIs, in the machine's order. */
  disks: string[]
  /** Unix socket of the serial console; '' when QEMU is run by others. */
  console: string
  /** 0 as above. */
  pid: number
  /** What runs, or is to be run. */
  command: string[]
}

export interface RunFigures {
  kind: RunKind
  state: RunState
  since: string
  pid: number
}

interface Run {
  machine: string
  group: string
  folder: RunFolder
  qemu?: Qemu | undefined
  listener?: { close(): void } | undefined
  /** Of a view. */
  close?: () => Promise<void>
}

const monitorMs = 30_000

export class Runs {
  /** By machine. */
  readonly #runs = new Map<string, Run>()
  #closing = false

  constructor(
    private readonly stage: Stage,
    private readonly drills: Drills,
  ) {}

  async start(request: StartRequest): Promise<Started> {
    const action = `vm start ${request.machine}`
    const found = this.stage.machines.find(action, request.machine)
    this.#judge(action, request, found)
    const { machine, copy } = found
    const kind = request.throwAway ? 'throw-away' : 'promoted'
    if (kind === 'promoted') this.stage.copies().standAside(machine.group)
    const run: Run = {
      machine: machine.name,
      group: machine.group,
      folder: this.#makeFolder(copy.directory, machine, kind, request.print),
    }
    this.#runs.set(machine.name, run)
    try {
      return request.throwAway
        ? await this.#startThrowAway(run, found, request.at)
        : await this.#startPromoted(run, found, request)
    } catch (error) {
      // What a stop of the daemon has interrupted in the middle of a promotion goes on at the next start, as after a crash.
      if (!this.#closing || request.throwAway || !this.stage.copies().isBeingPromoted(run.group))
        await this.#forget(run)
      throw error
    }
  }

  /** Asks it to power off, as a key on the machine would; `force`: pulls its plug. Returns a line for people. */
  async stop(name: string, force: boolean, timeoutMs: number): Promise<string> {
    const run = this.#runs.get(name)
    if (run === undefined) {
      this.stage.machines.find('vm stop', name)
      throw new OperationError('NOT_RUNNING', `vm stop ${name}: it does not run here`)
    }
    const { qemu } = run
    if (run.folder.record.state === 'starting')
      throw new OperationError('STARTING', `vm stop ${name}: it is being started; try again`)
    if (qemu !== undefined && !force) await this.#powerOff(run, qemu, timeoutMs)
    await this.#forget(run)
    return qemu === undefined ? `${name}: its disks are not served for it any more` : `${name}: it has ended`
  }

  /** This host is to be the group's master no more: a machine that has its disks would lose them. */
  refuseOn(action: string, group: string): void {
    const run = this.#promotedOf(group)
    if (run === undefined) return
    throw new SafetyRefusal('RUNNING', `${action}: ${doing(run)}; 'understudy vm stop ${run.machine}' first`)
  }

  #promotedOf(group: string): Run | undefined {
    return [...this.#runs.values()].find(run => run.group === group && run.folder.record.kind === 'promoted')
  }

  state(name: string): RunFigures | null {
    const run = this.#runs.get(name)
    if (run === undefined) return null
    const { kind, state, since } = run.folder.record
    return { kind, state, since, pid: run.qemu?.pid ?? 0 }
  }

  /** The disks of what was running before this daemon are served again. Called whenever what is served may have changed. */
  serve(): void {
    for (const run of this.#runs.values()) if (run.folder.record.kind === 'promoted') this.#serve(run)
  }

  /** A promoted one of a daemon before this one: it is looked after from here on. */
  adopt(group: string, folder: RunFolder): void {
    const { machine } = folder.record
    if (this.#runs.has(machine)) return
    const qemu = Qemu.find(folder.pidFile, this.stage.clock)
    const run: Run = { machine, group, folder, qemu }
    this.#runs.set(machine, run)
    if (qemu !== undefined) this.#watch(run, qemu)
  }

  /** Once everything is open: what was being started is started, what has ended meanwhile is forgotten. */
  async carryOn(): Promise<void> {
    for (const run of [...this.#runs.values()]) {
      const { state } = run.folder.record
      try {
        if (state === 'starting' && this.stage.copies().isBeingPromoted(run.group)) void this.#carryOnLater(run)
        else if (state === 'starting') await this.#carryOn(run)
        else if (state === 'running' && run.qemu === undefined) await this.#ended(run, 'it has ended')
      } catch (error) {
        await this.#notStarted(run, error)
      }
    }
  }

  /** The promotion takes its time (its moment), and neither a start nor an end of the daemon waits for it here. */
  async #carryOnLater(run: Run): Promise<void> {
    try {
      await this.stage.copies().settled(run.group)
      if (!this.#closing && this.#runs.get(run.machine) === run) await this.#carryOn(run)
    } catch (error) {
      await this.#notStarted(run, error)
    }
  }

  #notStarted(run: Run, error: unknown): Promise<void> {
    this.stage.log.error(`vm ${run.machine}: it was being started, and is not: ${describe(error)}`)
    return this.#forget(run)
  }

  /** Those that are thrown away end; QEMU of the others goes on, without disks until the next daemon. */
  async close(): Promise<void> {
    this.#closing = true
    for (const run of [...this.#runs.values()]) if (run.close !== undefined) await this.#forget(run)
  }

  #judge(action: string, { print, throwAway, at }: StartRequest, { machine }: Found): void {
    if (this.#closing) throw new OperationError('STOPPING', `${action}: the daemon is stopping`)
    const run = this.#runs.get(machine.name) ?? (throwAway ? undefined : this.#promotedOf(machine.group))
    if (run !== undefined) throw new SafetyRefusal('RUNNING', `${action}: ${doing(run)}`)
    if (throwAway && this.stage.copies().isPromoted(machine.group))
      throw new SafetyRefusal(
        'IS_MASTER',
        `${action}: this host is the master of group ${machine.group}; --throw-away is of a standby's copy`,
      )
    const copies = this.stage.copies()
    if (at !== '' && copies.isPromoted(machine.group) && !copies.isBeingPromoted(machine.group))
      throw new SafetyRefusal(
        'IS_MASTER',
        `${action}: group ${machine.group} was promoted already, and its history ended with that; without --at the machine starts on what it has now`,
      )
    if (!print) requireQemu(action)
  }

  #makeFolder(directory: string, { name }: Machine, kind: RunKind, prints: boolean): RunFolder {
    const since = new Date(this.stage.clock.wallMs()).toISOString()
    return RunFolder.make(directory, name, { machine: name, kind, state: 'starting', prints, since })
  }

  async #startPromoted(run: Run, found: Found, request: StartRequest): Promise<Started> {
    const messages: string[] = []
    const { machine } = found
    const copies = this.stage.copies()
    const { at } = request
    const isPromoted = copies.isPromoted(machine.group)
    if (!isPromoted && at !== '') await copies.checkMoment(`vm start ${run.machine}`, machine.group, at)
    if (!isPromoted || copies.isBeingPromoted(machine.group)) {
      const unbar = await this.drills.bar(machine.group, `the machine's group is being promoted`)
      const { acceptLoss, force } = request
      const readable = (): void => this.#serve(run)
      const options = { acceptLoss, force, at, readable }
      try {
        await this.#endThrowAways(machine.group)
        messages.push(...(await copies.promote(found.copy.volumes[0]?.name ?? '', options)).messages)
      } catch (error) {
        throw failureOf(`vm start ${run.machine}`, error)
      } finally {
        unbar()
      }
    }
    messages.push(...this.stage.serve())
    this.#serve(run, true)
    const { command, disks } = await this.#commandOf(found, request.print ? [] : controlOf(run.folder))
    if (!request.print) return { ...(await this.#runFree(run, command)), disks, messages }
    run.folder.save('printed')
    return { messages, disks, console: '', pid: 0, command }
  }

  async #runFree(run: Run, command: string[]): Promise<Omit<Started, 'messages' | 'disks'>> {
    const { folder } = run
    const { clock, log } = this.stage
    const qemu = Qemu.startFree(command.slice(1), clock, folder.log)
    await untilUp(qemu, folder, this.stage, `vm start ${run.machine}`)
    folder.save('running')
    this.#watch(run, qemu)
    log.info(`vm ${run.machine}: runs (process ${qemu.pid})`)
    return { console: folder.console, pid: qemu.pid, command }
  }

  async #startThrowAway(run: Run, { machine }: Found, at: string): Promise<Started> {
    const { folder } = run
    const view = await viewFor(throwAwayOf(machine.name), this.stage, machine, at)
    run.close = view.close
    run.listener = this.stage.listen(folder.disks, view.exported)
    const volumes = view.exported.map(({ name }) => name)
    const disks = disksAt(folder.disks, volumes, true)
    const accelerator = await this.stage.machines.accelerator.look()
    const args = throwAwayArguments(machine, disks, accelerator, controlOf(folder))
    const qemu = Qemu.startBound(args, this.stage.clock, folder.path, () => undefined)
    await untilUp(qemu, folder, this.stage, `vm start ${machine.name}`)
    folder.save('running')
    this.#watch(run, qemu)
    const messages = [
      `${machine.name}: runs on a copy at sequence ${view.position.sequence}; what it writes is gone when it ends`,
    ]
    const command = [qemuProgram, ...args]
    return { messages, disks: disks.map(({ url }) => url), console: folder.console, pid: qemu.pid, command }
  }

  /** The promotion was begun before a crash, or it was not, and then nothing was. */
  async #carryOn(run: Run): Promise<void> {
    const found = this.stage.machines.find('vm start', run.machine)
    if (!this.stage.copies().isPromoted(found.machine.group)) {
      this.stage.log.warn(
        `vm ${run.machine}: it was to be started when the daemon ended, and nothing was done; ask again`,
      )
      return this.#forget(run)
    }
    this.#serve(run, true)
    this.stage.log.info(`vm ${run.machine}: its start goes on`)
    if (run.folder.record.prints) return run.folder.save('printed')
    if (run.qemu !== undefined) return run.folder.save('running')
    const { command } = await this.#commandOf(found, controlOf(run.folder))
    await this.#runFree(run, command)
  }

  /** `must`: throws when it cannot be. */
  #serve(run: Run, must = false): void {
    if (run.listener !== undefined) return
    try {
      const { copy } = this.stage.machines.find('vm', run.machine)
      const volumes = copy.volumes.map(({ name }) => name)
      const open = this.stage
        .copies()
        .promoted()
        .map(({ exported }) => exported)
      const exported = volumes.flatMap(name => open.find(volume => volume.name === name) ?? [])
      if (exported.length === volumes.length) run.listener = this.stage.listen(machineSocket(copy.directory), exported)
      else if (must)
        throw new OperationError('NOT_OPEN', `vm ${run.machine}: its disks are not open: ${missing(volumes, exported)}`)
    } catch (error) {
      if (must) throw error
      this.stage.log.error(`vm ${run.machine}: its disks are not served: ${describe(error)}`)
    }
  }

  async #powerOff(run: Run, qemu: Qemu, timeoutMs: number): Promise<void> {
    const { clock } = this.stage
    const qmp = await Qmp.open(run.folder.monitor, clock, monitorMs, () => qemu.hasExited)
    try {
      await qmp.execute('system_powerdown')
    } finally {
      qmp.close()
    }
    let cancel = (): void => undefined
    const late = new Promise<'late'>(resolve => (cancel = clock.after(timeoutMs, () => resolve('late'))))
    const first = await Promise.race([qemu.exited, late])
    cancel()
    if (first !== 'late') return
    throw new OperationError(
      'STILL_RUNS',
      `vm stop ${run.machine}: it has not powered off within ${timeoutMs / 1000} s; --force pulls its plug`,
    )
  }

  /** `control`: what this daemon looks after it by; none, for whoever runs it himself. */
  async #commandOf(found: Found, control: readonly string[]): Promise<{ disks: string[]; command: string[] }> {
    const disks = disksOf(found, 'nbd')
    const accelerator = await this.stage.machines.accelerator.look()
    const command = [qemuProgram, ...qemuArguments(found.machine, disks, accelerator, control)]
    return { disks: disks.map(({ url }) => url), command }
  }

  #watch(run: Run, qemu: Qemu): void {
    run.qemu = qemu
    void qemu.exited.then(({ how }) => {
      if (this.#runs.get(run.machine) === run && !this.#closing) return this.#ended(run, how)
      return undefined
    })
  }

  async #ended(run: Run, how: string): Promise<void> {
    this.stage.log.warn(`vm ${run.machine}: it does not run any more: ${how}`)
    await this.#forget(run)
  }

  async #endThrowAways(group: string): Promise<void> {
    for (const run of [...this.#runs.values()])
      if (run.group === group && run.close !== undefined) await this.#forget(run)
  }

  /** Nothing of it is left. */
  async #forget(run: Run): Promise<void> {
    if (this.#runs.get(run.machine) === run) this.#runs.delete(run.machine)
    try {
      await (run.qemu ?? Qemu.find(run.folder.pidFile, this.stage.clock))?.end()
      run.listener?.close()
      await run.close?.()
      run.folder.remove()
    } catch (error) {
      this.stage.log.error(`vm ${run.machine}: ${describe(error)}`)
    }
  }
}

const throwAwayOf = (machine: string): Viewer => ({
  action: `vm start ${machine}`,
  holds: `machine ${machine} runs on the copy (vm start --throw-away); end it first: 'understudy vm stop ${machine}'`,
})

function doing({ machine, qemu, folder }: Run): string {
  const { state, since } = folder.record
  const what = { starting: 'is being started', running: `runs (process ${qemu?.pid ?? 0})`, printed: 'has the disks' }
  return `${machine} ${what[state]} since ${since}`
}

/** Its monitor answers; or why it will not. */
async function untilUp(qemu: Qemu, folder: RunFolder, { clock }: Stage, action: string): Promise<void> {
  try {
    const qmp = await Qmp.open(folder.monitor, clock, monitorMs, () => qemu.hasExited)
    qmp.close()
  } catch (error) {
    const how = qemu.hasExited ? (await qemu.exited).how : describe(error)
    await qemu.end()
    throw new OperationError('QEMU', `${action}: QEMU: ${how}`, { cause: error })
  }
}

const controlOf = ({ monitor, pidFile, console }: RunFolder): string[] => [
  ...controlArguments(monitor, pidFile),
  ...['-chardev', `socket,id=console,path=${console.replaceAll(',', ',,')},server=on,wait=off`],
  ...['-serial', 'chardev:console'],
]

const missing = (volumes: readonly string[], open: readonly ExportedVolume[]): string =>
  volumes.filter(name => !open.some(volume => volume.name === name)).join(', ')
