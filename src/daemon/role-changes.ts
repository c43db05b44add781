/**
 * Who reigns: promote, demote, switchover, resolve, pause, resume, invalidate, whichever role this host has in a group.
 *
 *   MasterGroup of the configuration  <-- demote, switchover, resolve, or the other side reigns and nothing is lost
 *        |                                        --> a copy in the store (Standby.adopt), which follows
 *   copy in the store  --promote-->  MasterGroup on the same device (standby/reign.ts)
 *
 * One change of a daemon at a time. A refusal says what happened and what the choices are (exit code 3, G5).
 */
import type { GroupConfig } from '../core/config-types.js'
import { describe, OperationError, SafetyRefusal } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { contains, forkFrom, type Position, type Reign } from '../core/reigns.js'
import type { VolumeStatus } from '../core/status-types.js'
import { abdicationLines } from '../standby/promotion.js'
import type { SavedVolume } from '../standby/saved-regions.js'
import type { MasterRole, StandbyRole, VolumeIdentity } from './roles.js'

export interface RoleHost {
  log: Logger
  status(): VolumeStatus[]
  /** Of the configuration, as far as this host is their master. */
  masters(): MasterRole[]
  standby(): StandbyRole | undefined
  /** Opens a store of its own where none is configured. */
  needStandby(): Promise<StandbyRole>
  /** The master of the configuration is open no more. */
  forget(group: MasterRole): void
  openGroup(config: GroupConfig): Promise<void>
  /** Clients reach what this host is the master of, and nothing else. Returns a line for each change. */
  serve(): string[]
  /** `fork`: where the other side went on from the reign that ended here; undefined: nowhere. */
  suspects(
    group: string,
    volumes: readonly VolumeIdentity[],
    fork: Position | undefined,
  ): Promise<Record<string, bigint[]> | undefined>
  saveRegions(volumes: SavedVolume[]): Promise<string[]>
}

export type Keep = 'local' | 'peer'

const prevailMs = 15_000
const prevailPollMs = 100

export class RoleChanges {
  #queue: Promise<unknown> = Promise.resolve()

  constructor(private readonly host: RoleHost) {}

  demote(volume: string, takeOver: boolean): Promise<string[]> {
    return this.exclusively(async () => {
      const group = this.#masterOf(volume)
      const lines =
        group === undefined ? await this.#demoteReign(volume, takeOver) : await this.#stepDown(group, volume, takeOver)
      return [...lines, ...this.host.serve()]
    })
  }

  resolve(volume: string, keep: Keep): Promise<string[]> {
    return this.exclusively(async () => {
      const lines = await (keep === 'peer' ? this.#yieldTo(volume) : this.#prevail(volume))
      return [...lines, ...this.host.serve()]
    })
  }

  async pause(volume: string): Promise<void> {
    const master = this.#reigning(volume)
    if (master !== undefined) master.pause()
    else await this.#copyOf(volume, 'pause').pause(volume)
  }

  /** promote --force where the master is; undefined: it is not here, or has no lease. */
  giveUpLease(volume: string): string[] | undefined {
    const master = this.#reigning(volume)
    return master?.leaseUntilNs === undefined ? undefined : master.giveUpLease()
  }

  resume(volume: string): void {
    const master = this.#reigning(volume)
    if (master !== undefined) master.resume()
    else this.#copyOf(volume, 'resume').resume(volume)
  }

  async invalidate(volume: string, inPlace: boolean): Promise<void> {
    const master = this.#reigning(volume)
    if (master === undefined) await this.#copyOf(volume, 'invalidate').invalidate(volume, inPlace)
    else if (inPlace)
      throw new SafetyRefusal(
        'IS_MASTER',
        `invalidate ${volume} --in-place: ask the standby's daemon, whose copy it is`,
      )
    else master.invalidate()
  }

  /** The other side reigns. It is followed at once if nothing would be lost, or if its operator has decided so. */
  outranked(group: MasterRole): void {
    const refused = group.outranked
    const own = group.history.at(-1)?.id ?? ''
    const position = group.provenPosition()
    const proven = contains(refused?.history ?? [], own, position)
    if (!proven && refused?.yield !== true) return
    void this.exclusively(async () => {
      if (!this.host.masters().includes(group)) return
      const lines = await this.#follow(group, proven ? position : undefined)
      this.host.log.warn(`group ${group.config.name}: the other side is the master: ${lines.join('; ')}`)
      this.host.serve()
    }).catch((error: unknown) => this.host.log.error(`group ${group.config.name}: ${describe(error)}`))
  }

  async #stepDown(group: MasterRole, volume: string, takeOver: boolean): Promise<string[]> {
    const { config, history } = group
    const action = takeOver ? 'switchover' : 'demote'
    this.#refuseUnsynced(action, volume)
    const standby = await this.host.needStandby()
    const volumes = group.volumeIdentities
    let adopted = false
    const persist = (position: Position): void => {
      standby.adopt(config, volumes, history, originOf(history, { position, volumes, switchover: takeOver }))
      adopted = true
    }
    this.host.forget(group)
    const { noted } = await group.close({ drainMs: config.drainTimeoutMs, abdicate: { persist, takeOver } })
    if (!adopted) {
      await this.host.openGroup(config)
      throw new OperationError(
        'NOT_DRAINED',
        `${action} ${volume}: the standby did not get everything in time (drain_timeout); this host goes on as the master`,
      )
    }
    await standby.openAdopted(config)
    return abdicationLines(volume, takeOver, noted === true)
  }

  async #demoteReign(volume: string, takeOver: boolean): Promise<string[]> {
    const action = takeOver ? 'switchover' : 'demote'
    const standby = this.#copyOf(volume, action)
    const master = standby.masters().find(candidate => candidate.exports().some(({ name }) => name === volume))
    if (master !== undefined) this.#refuseUnsynced(action, volume)
    return standby.demote(volume, takeOver, master?.config.drainTimeoutMs ?? 0)
  }

  async #yieldTo(volume: string): Promise<string[]> {
    const group = this.#masterOf(volume)
    if (group === undefined) return this.#copyOf(volume, 'resolve').resolve(volume)
    if (group.outranked === undefined) throw notDiverged(volume)
    return this.#follow(group, undefined)
  }

  /** What only this side has is saved, unless it is proven that there is nothing; then it is a copy of the other's. */
  async #follow(group: MasterRole, position: Position | undefined): Promise<string[]> {
    const { config, history } = group
    const volumes = group.volumeIdentities
    const standby = await this.host.needStandby()
    this.host.forget(group)
    await group.close({ drainMs: 0 })
    if (position !== undefined) {
      standby.adopt(config, volumes, history, originOf(history, { position, volumes, switchover: false }))
      await standby.openAdopted(config)
      return ['nothing was written here since; it is followed']
    }
    const fork = forkFrom(group.outranked?.history ?? [], history.at(-1)?.id ?? '')
    const suspects = await this.host.suspects(config.name, volumes, fork)
    const lines = await this.host.saveRegions(
      volumes.map(({ name, sizeBytes }) => ({
        name,
        sizeBytes,
        path: config.volumes.find(volume => volume.name === name)?.device ?? '',
        ranges: suspects?.[name] ?? [0n, sizeBytes],
      })),
    )
    const reign = history.at(-1)?.id ?? ''
    const origin = { reign, ...(suspects === undefined ? {} : { suspects }), accepted: true, switchover: false }
    standby.adopt(config, volumes, history, origin)
    await standby.openAdopted(config)
    return lines
  }

  /** The other side is told to save and to follow; waits until it does. */
  async #prevail(volume: string): Promise<string[]> {
    const master = this.#reigning(volume)
    if (master === undefined)
      throw new SafetyRefusal(
        'IS_STANDBY',
        `resolve ${volume}: this side is a standby: '--keep peer' here, or 'understudy promote ${volume}'`,
      )
    if (master.outranked === undefined) throw notDiverged(volume)
    master.prevail()
    for (let waited = 0; waited < prevailMs; waited += prevailPollMs) {
      if (master.outranked === undefined)
        return [`${volume}: the other side has saved what only it had, and follows this one`]
      await new Promise(resolve => setTimeout(resolve, prevailPollMs))
    }
    throw new OperationError(
      'PEER_AWAY',
      `resolve ${volume}: the other side has not answered within ${prevailMs / 1000} s; it will be told when it comes`,
    )
  }

  #refuseUnsynced(action: string, name: string): void {
    const volume = this.host.status().find(candidate => candidate.name === name)
    if (volume?.state === 'replicating') return
    throw new SafetyRefusal(
      'NOT_CURRENT',
      `${action} ${name}: the standby does not have everything now (${volume?.state ?? ''}: ${volume?.reason ?? ''}); wait until it replicates`,
    )
  }

  #masterOf(volume: string): MasterRole | undefined {
    return this.host.masters().find(group => group.exports().some(({ name }) => name === volume))
  }

  #reigning(volume: string): MasterRole | undefined {
    const all = [...this.host.masters(), ...(this.host.standby()?.masters() ?? [])]
    return all.find(group => group.exports().some(({ name }) => name === volume))
  }

  #copyOf(volume: string, action: string): StandbyRole {
    const standby = this.host.standby()
    const names = this.host.status().map(({ name }) => name)
    if (standby !== undefined && names.includes(volume)) return standby
    const there = names.length === 0 ? 'it has none yet' : `there are: ${names.join(', ')}`
    throw new OperationError('NO_VOLUME', `${action}: there is no volume '${volume}' here; ${there}`)
  }

  /** After the changes that are under way, and before any other. */
  exclusively<T>(task: () => Promise<T>): Promise<T> {
    const done = this.#queue.then(task)
    this.#queue = done.catch(() => undefined)
    return done
  }
}

function originOf(
  history: readonly Reign[],
  facts: { position: Position; volumes: readonly VolumeIdentity[]; switchover: boolean },
) {
  const { position, volumes, switchover } = facts
  const suspects = Object.fromEntries(volumes.map(({ name }) => [name, []]))
  return { reign: history.at(-1)?.id ?? '', position, suspects, accepted: false, switchover }
}

function notDiverged(volume: string): SafetyRefusal {
  return new SafetyRefusal(
    'NOT_DIVERGED',
    `resolve ${volume}: the two sides have not diverged; there is nothing to decide`,
  )
}
