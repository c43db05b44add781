/**
 * Machines on stage: drills and starts, as the daemon sees them. What another daemon has left behind is found before
 * anything is served, ended where it was on views, and gone on with where it was promoted.
 */
import { describe, SafetyRefusal } from '../core/errors.js'
import type { DrillResult } from './drill-file.js'
import { type DrillFigures, Drills } from './drills.js'
import type { NextDrill } from './listing.js'
import { RunFolder } from './run-folder.js'
import { type RunFigures, Runs } from './runs.js'
import type { Stage } from './stage.js'

export interface RecoveryFigures {
  drills: DrillFigures[]
  machines: { machine: string; group: string; running: boolean }[]
}

export class Recovery {
  readonly drills: Drills
  readonly runs: Runs
  /** Of a daemon that was killed: to be ended. */
  readonly #abandoned: { directory: string; folder: RunFolder }[] = []
  readonly #seen = new Set<string>()
  /** From here on whatever is found in the store is this daemon's own. */
  #carriesOn = false

  constructor(
    private readonly stage: Stage,
    private readonly groups: () => readonly { group: string; directory: string }[],
  ) {
    this.drills = new Drills(stage)
    this.runs = new Runs(stage, this.drills)
  }

  /** Whenever what is served may have changed; until everything is open, it finds what was left behind. */
  serve(): void {
    for (const { group, directory } of this.#carriesOn ? [] : this.groups()) {
      if (this.#seen.has(group)) continue
      this.#seen.add(group)
      for (const folder of RunFolder.all(directory, this.stage.log))
        if (folder.record.kind === 'promoted') this.runs.adopt(group, folder)
        else this.#abandoned.push({ directory, folder })
    }
    this.runs.serve()
  }

  /** Once everything is open. Never throws. */
  async carryOn(): Promise<void> {
    this.#carriesOn = true
    for (const { directory, folder } of this.#abandoned.splice(0)) {
      try {
        await this.drills.cleanUp(directory, folder)
      } catch (error) {
        this.stage.log.error(`vm ${folder.record.machine}: ${describe(error)}`)
      }
    }
    await this.runs.carryOn()
  }

  /** For a list of machines. */
  state(machine: string): { run: RunFigures | null; lastDrill: DrillResult | null; nextDrill: NextDrill | null } {
    const { drills } = this
    return { run: this.runs.state(machine), lastDrill: drills.last(machine) ?? null, nextDrill: drills.next(machine) }
  }

  /** Its definition is what ends it, or carries it on after a crash. */
  refuseWhileOnStage(action: string, machine: string): void {
    const run = this.runs.state(machine)
    const what =
      run !== null ? `it runs since ${run.since}; 'understudy vm stop ${machine}' ends it` : 'a drill of it runs'
    if (run !== null || this.drills.isRunning(machine))
      throw new SafetyRefusal('RUNNING', `${action} ${machine}: ${what}`)
  }

  figures(): RecoveryFigures {
    const machines = this.stage.machines.list(() => undefined)
    return {
      drills: this.drills.figures(machines),
      machines: machines.map(({ machine: { name, group } }) => ({
        ...{ machine: name, group, running: this.runs.state(name)?.state === 'running' },
      })),
    }
  }

  async close(reason: string): Promise<void> {
    await this.drills.close(reason)
    await this.runs.close()
  }
}
