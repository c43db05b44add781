/** The views of a group's copies that are open for clients: frozen volumes of one moment, served by an engine of their own. */
import { type Clock, sleep } from '../core/clock.js'
import type { ExportFormat } from '../core/config-types.js'
import { errnoOf, NativeError, OperationError, SafetyRefusal, UnderstudyError } from '../core/errors.js'
import { encodePosition } from '../core/reigns.js'
import type { Addon, Point } from '../native/binding.js'
import { type OpenVolumes, viewGroup } from './open-volumes.js'

/** Of several volumes, all at one position. */
export interface GroupView {
  exported: OpenVolumes['exported']
  position: { incarnation: string; sequence: string }
  /** When its last record was made, by the master's clock; absent: not known. */
  timeNs?: bigint
  close(): Promise<void>
}

export interface StandbyView extends Omit<GroupView, 'exported'> {
  exported: OpenVolumes['exported'][number]
}

/** A volume by its name and its index in the replica. */
export interface ViewedVolume {
  name: string
  index: number
  /** Bytes behind its last one; it is read-only then. */
  tail?: Uint8Array
}

export interface ViewOptions {
  writable: boolean
  /** A moment as people write it (moment.ts); absent or '': the newest. */
  at?: string
  format?: ExportFormat
  /** Absent: an export. */
  viewer?: Viewer
}

/** Whom a view is for. */
export interface Viewer {
  /** What was asked for, as every refusal begins. */
  action: string
  /** For whoever cannot go on before it has ended: what holds the copy, and how to end that. */
  holds: string
}

/** What the engine was asked for: handles for openGroup(). */
export interface TakenViews {
  views: number[]
  point: Point
}

export interface ViewDeps {
  addon: Addon
  clock: Clock
  random64: () => bigint
}

/** How long a step that is being applied is waited for. */
export const viewWaitMs = 30_000
const stepPollMs = 20

export class Views {
  /** With what holds the copy, in words. */
  readonly #open = new Map<OpenVolumes, string>()
  readonly #cloning = new Map<Promise<unknown>, string>()

  constructor(private readonly deps: ViewDeps) {}

  /** Why the copy cannot be taken away now: what holds it. */
  get holders(): string[] {
    return [...new Set([...this.#open.values(), ...this.#cloning.values()])]
  }

  /** `take` is called for each attempt; it throws when there is nothing to be viewed. */
  open(
    viewer: Viewer,
    volumes: readonly ViewedVolume[],
    writable: boolean,
    deadlineMs: number,
    take: (indexes: number[]) => Promise<TakenViews>,
  ): Promise<GroupView> {
    return this.#whenCut(viewer.action, deadlineMs, () => this.#attempt(viewer, volumes, writable, take))
  }

  /** What shows nothing to clients, and counts as a view as long as it takes. */
  clone(viewer: Viewer, deadlineMs: number, make: () => Promise<Point>): Promise<Point> {
    return this.#whenCut(viewer.action, deadlineMs, async () => {
      const making = make()
      this.#cloning.set(making, viewer.holds)
      try {
        return await making
      } finally {
        this.#cloning.delete(making)
      }
    })
  }

  /** An attempt that ends with EAGAIN is made again: a step is being applied. */
  async #whenCut<T>(action: string, deadlineMs: number, attempt: () => Promise<T>): Promise<T> {
    const { clock } = this.deps
    for (;;) {
      try {
        return await attempt()
      } catch (error) {
        if (errnoOf(error) !== 'EAGAIN') throw refusal(action, error)
      }
      if (clock.monotonicMs() >= deadlineMs) {
        throw new OperationError(
          'STEP',
          `${action}: a step is being applied for more than ${viewWaitMs / 1000} s; try again`,
        )
      }
      await sleep(clock, stepPollMs)
    }
  }

  async close(): Promise<void> {
    for (const view of this.#open.keys()) await view.close()
    this.#open.clear()
    await Promise.allSettled(this.#cloning.keys())
  }

  async #attempt(
    { action, holds }: Viewer,
    volumes: readonly ViewedVolume[],
    writable: boolean,
    take: (indexes: number[]) => Promise<TakenViews>,
  ): Promise<GroupView> {
    const { addon, random64 } = this.deps
    const { views, point } = await take(volumes.map(({ index }) => index))
    const viewed = volumes.map(({ name, tail }, at) => ({ name, view: views[at] ?? -1, ...(tail && { tail }) }))
    const open = viewGroup(addon, action, viewed, writable, random64())
    this.#open.set(open, holds)
    const close = async (): Promise<void> => {
      if (this.#open.delete(open)) await open.close()
    }
    const { timeNs } = point
    return { exported: open.exported, position: encodePosition(point), ...(timeNs === 0n ? {} : { timeNs }), close }
  }
}

function refusal(action: string, error: unknown): UnderstudyError {
  if (errnoOf(error) === 'ENODATA') return unusable(action)
  if (error instanceof Error && error.message.includes('only in part'))
    return new OperationError('TORN', `${action}: ${error.message.replace(/^view: /, '')}`, { cause: error })
  return error instanceof UnderstudyError ? error : new NativeError(action, error)
}

export function unusable(action: string): SafetyRefusal {
  return new SafetyRefusal(
    'UNUSABLE',
    `${action}: the first copy is not complete, so it is not a usable one; wait for it: understudy wait VOLUME --for usable`,
  )
}
