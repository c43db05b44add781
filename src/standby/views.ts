/** The views of a group's copies that are open for clients: each a frozen volume, served by an engine of its own. */
import { type Clock, sleep } from '../core/clock.js'
import { errnoOf, NativeError, OperationError, SafetyRefusal } from '../core/errors.js'
import type { Addon } from '../native/binding.js'
import { type OpenVolumes, viewGroup } from './open-volumes.js'

export interface StandbyView {
  exported: OpenVolumes['exported'][number]
  position: { incarnation: string; sequence: string }
  close(): Promise<void>
}

export interface ViewDeps {
  addon: Addon
  clock: Clock
  random64: () => bigint
}

/** How long a step that is being applied is waited for. */
export const viewWaitMs = 30_000
const stepPollMs = 100

export class Views {
  readonly #open = new Set<OpenVolumes>()

  constructor(private readonly deps: ViewDeps) {}

  get size(): number {
    return this.#open.size
  }

  /** `replica` is asked before each attempt; it throws when there is nothing to be viewed. */
  async open(
    volume: string,
    index: number,
    writable: boolean,
    deadlineMs: number,
    replica: () => number,
  ): Promise<StandbyView> {
    const { clock } = this.deps
    for (;;) {
      const view = this.#attempt(volume, index, writable, replica())
      if (view !== undefined) return view
      if (clock.monotonicMs() >= deadlineMs) {
        throw new OperationError(
          'STEP',
          `export ${volume}: a step is being applied for more than ${viewWaitMs / 1000} s; try again`,
        )
      }
      await sleep(clock, stepPollMs)
    }
  }

  async close(): Promise<void> {
    for (const view of this.#open) await view.close()
    this.#open.clear()
  }

  /** Undefined: a step is being applied. */
  #attempt(volume: string, index: number, writable: boolean, replica: number): StandbyView | undefined {
    const { addon, random64 } = this.deps
    const action = `export ${volume}`
    try {
      const { view, incarnation, sequence } = addon.replicaView(replica, index, writable)
      const open = viewGroup(addon, volume, view, writable, random64())
      this.#open.add(open)
      const [exported] = open.exported
      if (exported === undefined) throw new OperationError('NATIVE', `${action}: the engine opened nothing`)
      const close = async (): Promise<void> => {
        if (this.#open.delete(open)) await open.close()
      }
      return { exported, position: { incarnation: String(incarnation), sequence: String(sequence) }, close }
    } catch (error) {
      if (errnoOf(error) === 'EAGAIN') return undefined
      if (errnoOf(error) === 'ENODATA') throw unusable(action)
      if (error instanceof Error && error.message.includes('only in part'))
        throw new OperationError('TORN', `export ${error.message.replace(/^view: volume /, '')}`, { cause: error })
      throw error instanceof OperationError ? error : new NativeError(action, error)
    }
  }
}

export function unusable(action: string): SafetyRefusal {
  return new SafetyRefusal(
    'UNUSABLE',
    `${action}: the first copy is not complete, so it is not a usable one; wait for it: understudy wait VOLUME --for usable`,
  )
}
