/**
 * The time in which this host is the master of a group that it had a copy of: from the promotion to the day on which it
 * follows again. On disk (replica.json) the step comes first, always:
 *
 *   promotion          the old master is refused  -> sealed: the log is done with, begun: this host's own files count
 *                      (one step, before which nobody writes; a store of before has sealed alone)
 *   origin             it is a copy again, which once held a master's data (its log is gone before that is written)
 *
 * Does not: judge hellos, or serve NBD.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'

import { syncDirectory } from '../core/atomic-file.js'
import { defaults, durabilities, type GroupConfig } from '../core/config-types.js'
import { OperationError } from '../core/errors.js'
import type { Hand } from '../core/handed.js'
import { aliasOf, forkFrom, nextReign, type Position, type Reign as Generation } from '../core/reigns.js'
import type { Origin, ReplicaRecord } from './replica-file.js'
import type { ReigningMaster, ReignRequest, Reigns } from './reigning.js'
import { saveAll } from './saved-regions.js'
import type { Store } from './store.js'

export interface ReignDeps {
  store: Store
  reigns: Reigns
  /** This host's own configuration of the group: its devices, and how the other host is reached. */
  own: GroupConfig | undefined
}

/** The end of a replica which takes no record any more, and whose images have, or will have, everything up to `fork`. */
export interface Sealing {
  fork: Position
  /** The images can be opened before end(). A device of this host's own may be one that only one opens. */
  isShared: boolean
  /** What they have not yet is shown by this replica, until end(). */
  replica?: number
  /** They have everything and are synced, and the log is closed for good; once is enough. */
  end(): Promise<void>
}

export type ReignEvents = Pick<ReignRequest, 'outranked' | 'settled'>

export class Reign {
  #master: ReigningMaster | undefined

  constructor(
    private readonly record: ReplicaRecord,
    private readonly deps: ReignDeps,
    private readonly events: ReignEvents,
  ) {}

  get master(): ReigningMaster | undefined {
    return this.#master
  }

  /**
   * `sealing`: of a promotion that is not sealed on disk. 1. the engine reads the images: `readable`, and writes wait
   * 2. its files are on disk, the images are synced, and the log is done with  3. sealed and begun are on disk, together
   * 4. clients may write.
   * A crash before 3: the log is replayed once more, onto images that nobody has written to, up to the same fork.
   */
  async begin(sealing?: Sealing, readable = (): Promise<void> => Promise.resolve()): Promise<void> {
    const { record, deps } = this
    const { promotion } = record
    if (promotion === undefined || this.#master !== undefined) return
    const fork = sealing && nextReign(record.history, promotion.generation, sealing.fork, promotion.time)
    const history = fork === undefined ? record.history : [...record.history, fork]
    const request = { config: this.#config(), volumes: record.volumes, ...this.events }
    if (sealing?.isShared === false) await sealing.end()
    const seed = { ...this.#seed(history), ...(sealing?.replica === undefined ? {} : { replica: sealing.replica }) }
    const master = await this.#open(promotion.begun ? request : { ...request, seed }, sealing)
    this.#master = master
    if (promotion.begun) return
    await readable()
    await this.#sealed(master, sealing)
    promotion.sealed = true
    promotion.begun = true
    delete record.origin
    delete record.final
    deps.store.save(Object.assign(record, { history }))
    master.letWrite()
  }

  async #open(request: ReignRequest, sealing: Sealing | undefined): Promise<ReigningMaster> {
    try {
      return await this.deps.reigns.open(request)
    } catch (error) {
      await sealing?.end().catch(() => undefined) // The images are not left open to others.
      throw error
    }
  }

  /** A failure ends what was readable. */
  async #sealed(master: ReigningMaster, sealing: Sealing | undefined): Promise<void> {
    try {
      master.putOnDisk()
      await sealing?.end()
    } catch (error) {
      this.#master = undefined
      await master.close({ drainMs: 0 })
      throw error
    }
  }

  #seed(history: readonly Generation[]): NonNullable<ReignRequest['seed']> {
    const { record } = this
    const fork = history.at(-1)?.fork ?? { incarnation: 0n, sequence: 0n }
    const known = {
      replicaId: aliasOf(record.masterId, history.at(-1)?.parent ?? ''),
      // Where files were left out this side has zeroes, and the old master what was in them: all of it is compared.
      // So it is where somebody has written without anybody knowing where; and where this side has gone back: the map of
      // the old master does not say what had been acknowledged since, and after a clean stop it is empty.
      positions:
        record.writtenSince !== undefined ||
        record.promotion?.asOf !== undefined ||
        record.volumes.some(({ filesLeftOut }) => filesLeftOut === true)
          ? []
          : [{ incarnation: fork.incarnation, durable: fork.sequence }],
    }
    // What was this host's own device all the time has been copied to the other side.
    return { history: [...history], known, isOnlyCopy: record.origin === undefined }
  }

  /**
   * Gives the reign to the other side, which has everything (drained), or nothing happens. Returns whether the other side
   * has said that it knows.
   */
  async abdicate(drainMs: number, takeOver: boolean): Promise<boolean> {
    const master = this.#reigning()
    const persist = (position: Position): void => this.#becomeCopy({ position, accepted: false, switchover: takeOver })
    const { noted } = await master.close({ drainMs, abdicate: { persist, takeOver } })
    this.#master = undefined
    if (this.record.promotion === undefined) return noted === true
    await this.begin()
    throw new OperationError(
      'NOT_DRAINED',
      `group ${this.record.group}: the standby did not get everything within ${drainMs / 1000} s; this host goes on as the master`,
    )
  }

  /** The other side's history goes on, and this one's ends. What only this side has is saved first: one line a volume. */
  async yield(time: string): Promise<string[]> {
    const master = this.#reigning()
    const fork = forkFrom(master.outranked?.history ?? [], master.history.at(-1)?.id ?? '')
    await master.close({ drainMs: 0 })
    this.#master = undefined
    const { record, deps } = this
    const suspects = await deps.reigns.suspects(record.group, record.volumes, fork)
    const origin = { ...(suspects === undefined ? {} : { suspects }), accepted: true, switchover: false }
    const lines = await saveAll(record, deps.store, suspects, time)
    this.#becomeCopy(origin)
    return lines
  }

  async close(drainMs: number, hand?: Hand): Promise<boolean> {
    const master = this.#master
    this.#master = undefined
    return master === undefined || (await master.close({ drainMs, ...(hand && { hand }) })).drained
  }

  #becomeCopy(origin: Omit<Origin, 'reign'>): void {
    const { record, deps } = this
    const reign = record.history.at(-1)?.id ?? ''
    // A log of an earlier time as a standby must not be taken for this copy's.
    clearLog(deps.store.groupDirectory(record.group))
    delete record.promotion
    delete record.final
    delete record.leaseMs
    delete record.writtenSince
    const suspects = origin.position === undefined ? origin.suspects : nothing(record)
    record.origin = { ...origin, reign, ...(suspects === undefined ? {} : { suspects }) }
    record.generation = reign
    deps.store.save(record)
  }

  #reigning(): ReigningMaster {
    if (this.#master === undefined)
      throw new OperationError('NOT_OPEN', `group ${this.record.group}: it is not open as a master; the log says why`)
    return this.#master
  }

  #config(): GroupConfig {
    const { record, deps } = this
    if (deps.own !== undefined) return deps.own
    return {
      name: record.group,
      volumes: record.volumes.map(volume => ({
        name: volume.name,
        device: deps.store.imagePath(volume),
        readOnly: false,
        direct: false,
        partitions: [],
        exclude: pairs(volume.excluded ?? []),
      })),
      standby: { id: record.masterId, host: '', port: 0 },
      peerConnects: true,
      durability: durabilities.find(word => word === record.durability) ?? defaults.durability,
      standbyLoss: { policy: defaults.onStandbyLoss },
      bandwidth: 0,
      compress: defaults.compress,
      resyncRate: 0,
      maxLag: { bytes: 0, milliseconds: 0 },
      onMaxLag: defaults.onMaxLag,
      logBytes: defaults.logBytes,
      peerTimeoutMs: defaults.peerTimeoutMs,
      transport: defaults.transport,
      drainTimeoutMs: defaults.drainTimeoutMs,
      ...(record.leaseMs === undefined ? {} : { leaseMs: record.leaseMs }),
    }
  }
}

/** After a drain nothing is suspect. */
export const nothing = ({ volumes }: Pick<ReplicaRecord, 'volumes'>): Record<string, bigint[]> =>
  Object.fromEntries(volumes.map(({ name }) => [name, []]))

function pairs(numbers: readonly bigint[]): { start: bigint; end: bigint }[] {
  return numbers.flatMap((start, index) => (index % 2 === 0 ? [{ start, end: numbers[index + 1] ?? start }] : []))
}

/** And the history with it. What else lies there (the group's machines and their drills) is not the copy's. */
function clearLog(directory: string): void {
  for (const name of ['segments', 'watermark', 'history', 'points'])
    rmSync(join(directory, name), { recursive: true, force: true })
  syncDirectory(directory)
}
