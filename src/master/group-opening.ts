/**
 * Opening a prepared group: its files first, then the engine, and the files put back when the engine refuses.
 *
 *   1. new volumes' files and the group's file (clean = false) are on disk  2. the engine opens the devices and the maps
 *   A crash after 1: an unclean stop. A refusal in 2: the files become what they were.
 *   Of a reign that begins 1 comes after 2 (MasterGroup.putOnDisk): its files count only when the promotion says so.
 */
import { join } from 'node:path'

import { makeDirectory, removeDurably, writeJson } from '../core/atomic-file.js'
import type { Clock } from '../core/clock.js'
import type { GroupConfig } from '../core/config-types.js'
import { describe, errnoOf, NativeError, SafetyRefusal, UsageError } from '../core/errors.js'
import type { Addon, OpenedGroup } from '../native/binding.js'
import type { KnownCopy, KnownPosition } from './attach-decision.js'
import { dirtyMapPath, encodeGroup, groupPath, type GroupRecord } from './group-file.js'
import type { CompiledFilter } from '../filter/follow.js'
import type { PreparedGroup, Seed } from './group-preparation.js'
import { leaseSpec } from './held-lease.js'
import { encodeVolume, volumePath } from './volume-file.js'

export interface OpeningDeps {
  addon: Addon
  stateDirectory: string
  /** By group: until when this host holds a lease already (Addon.lease). */
  heldLeases?: ReadonlyMap<string, bigint>
}

export function openNative(
  config: GroupConfig,
  deps: OpeningDeps,
  prepared: PreparedGroup,
  isLeaseWaived: boolean,
  seed: Seed | undefined,
): OpenedGroup {
  const trusted = prepared.handed?.kept ?? (prepared.clean !== undefined || prepared.live !== undefined)
  const handed = (index: number): { handed?: number } => {
    const fd = prepared.handed?.maps[index]
    return fd === undefined ? {} : { handed: fd }
  }
  const logFile = config.logFile === undefined ? {} : { logFile: openLogFile(deps.addon, config.logFile) }
  try {
    return deps.addon.openGroup({
      name: config.name,
      volumes: prepared.volumes.map(({ config: volume, identity, ranges, excludedBefore, fixedBefore }, index) => ({
        name: volume.name,
        device: { path: volume.device, ...(seed?.replica === undefined ? {} : { replica: seed.replica }) },
        readOnly: volume.readOnly,
        direct: volume.direct,
        // The engine is told of a change of the ranges once it is open, so that it makes the standby follow.
        excluded: excludedBefore ?? ranges.excluded,
        ...fixedAtOpen(ranges, excludedBefore, fixedBefore),
        watched: ranges.watched,
        map: {
          path: dirtyMapPath(deps.stateDirectory, volume.name),
          uuid: identity.uuid,
          trusted,
          servedBefore: prepared.servedBefore,
          ...handed(index),
        },
      })),
      incarnation: prepared.incarnation,
      durability: config.durability,
      onStandbyLoss: config.standbyLoss.policy,
      blockMs: config.standbyLoss.blockMs ?? 0,
      maxLagBytes: config.maxLag.bytes,
      maxLagMs: config.maxLag.milliseconds,
      onMaxLag: config.onMaxLag,
      logBytes: config.logBytes,
      ...logFile,
      peerTimeoutMs: config.peerTimeoutMs,
      resyncBytesPerSecond: config.resyncRate,
      replicated: config.standby !== undefined,
      holdsWrites: seed !== undefined,
      ...leaseSpec(config.leaseMs, isLeaseWaived, deps.heldLeases?.get(config.name)),
    })
  } catch (error) {
    if (errnoOf(error) === 'EOPNOTSUPP') throw new UsageError(describe(error), { cause: error }) // `direct`
    throw new NativeError(
      `open ${config.volumes.map(volume => `volume ${volume.name} (${volume.device})`).join(', ')}`,
      error,
    )
  }
}

/** With rules for files, now or before, what is known to be left out is a superset. */
function fixedAtOpen(
  ranges: CompiledFilter,
  excludedBefore: BigUint64Array | undefined,
  fixedBefore: BigUint64Array | undefined,
): { fixed?: BigUint64Array } {
  if (excludedBefore === undefined) return ranges.policy.files === undefined ? {} : { fixed: ranges.byRanges }
  if (fixedBefore !== undefined) return { fixed: fixedBefore }
  return ranges.policy.files === undefined ? {} : { fixed: excludedBefore }
}

/** The file is the group's alone: what cannot be ours is refused, not overwritten. */
function openLogFile(addon: Addon, { path, bytes }: NonNullable<GroupConfig['logFile']>): number {
  try {
    return addon.openLogFile({ path, bytesMax: bytes })
  } catch (error) {
    const errno = errnoOf(error)
    if (errno === 'EBUSY')
      throw new SafetyRefusal('LOG_FILE', `log file ${path}: another group or program has it open`, { cause: error })
    if (errno === 'EEXIST')
      throw new SafetyRefusal('LOG_FILE', `log file ${path}: it is there and is no log file of understudy`, {
        cause: error,
      })
    throw new NativeError(`log file ${path}`, error)
  }
}

/**
 * The copy for which the maps that the engine has taken up hold, and where it may stand. Undefined: they hold for none,
 * or not all of them could be taken up.
 */
export function knownAtOpen(prepared: PreparedGroup, native: OpenedGroup): KnownCopy | undefined {
  if (native.volumes.some(({ mapFloor }) => mapFloor === undefined)) return undefined
  if (prepared.clean !== undefined) return prepared.clean.known
  const known = prepared.live?.known
  if (known === undefined) return undefined
  let positions: KnownPosition[] | undefined = known.positions
  for (const { mapFloor } of native.volumes) positions = positions && aboveFloor(positions, mapFloor)
  return positions && { replicaId: known.replicaId, positions }
}

/** What the group's file goes on saying while the engine opens: a crash now changes nothing. */
export function liveAtOpen({ clean, live, volumes }: PreparedGroup): Pick<GroupRecord, 'live'> {
  if (clean === undefined) return live === undefined ? {} : { live }
  if (clean.known === undefined) return {}
  return {
    live: {
      known: clean.known,
      volumes: volumes.map(({ config, identity }) => ({ uuid: identity.uuid, device: config.device })),
    },
  }
}

/** The positions, oldest first, that are not ruled out by what was cleared under the floor. */
function aboveFloor(positions: KnownPosition[], floor: KnownPosition | undefined): KnownPosition[] | undefined {
  if (floor === undefined) return undefined
  if (floor.incarnation === 0n) return positions
  const at = positions.findIndex(({ incarnation }) => incarnation === floor.incarnation)
  const found = positions[at]
  if (found === undefined) return undefined
  const durable = found.durable > floor.durable ? found.durable : floor.durable
  return [{ incarnation: found.incarnation, durable }, ...positions.slice(at + 1)]
}

/** As the engine is opened with; a change that the configuration brings is written when the engine has been told. */
export function excludedOf(prepared: PreparedGroup): Record<string, bigint[]> {
  return Object.fromEntries(
    prepared.volumes.map(({ identity, ranges, excludedBefore }) => [
      identity.uuid,
      [...(excludedBefore ?? ranges.excluded)],
    ]),
  )
}

export function fixedOf({ volumes, before }: PreparedGroup): Pick<GroupRecord, 'fixed'> {
  const fixed: Record<string, bigint[]> = {}
  for (const { identity, ranges, excludedBefore, fixedBefore } of volumes) {
    const { fixed: at } = fixedAtOpen(ranges, excludedBefore, fixedBefore)
    if (at !== undefined) fixed[identity.uuid] = [...at]
  }
  return before?.fixed === undefined && Object.keys(fixed).length === 0 ? {} : { fixed }
}

export function carriedSince(prepared: PreparedGroup, clock: Clock): number | undefined {
  return prepared.clean === undefined ? clock.wallMs() : prepared.clean.dirtySinceMs
}

/** What persist() makes beside its files, for the engine's maps, when that comes later. */
export function makeFolder(state: string): void {
  makeDirectory(join(state, 'volumes'))
}

export function persist(config: GroupConfig, state: string, prepared: PreparedGroup, record: GroupRecord): void {
  for (const { identity, isNew } of prepared.volumes)
    if (isNew) writeJson(volumePath(state, identity.name), encodeVolume(identity))
  writeJson(groupPath(state, config.name), encodeGroup(record))
}

/** The engine was not opened, so nothing has changed since. */
export function restore(config: GroupConfig, state: string, prepared: PreparedGroup): void {
  for (const { identity, isNew } of prepared.volumes) if (isNew) removeDurably(volumePath(state, identity.name))
  const path = groupPath(state, config.name)
  if (prepared.before === undefined) removeDurably(path)
  else writeJson(path, encodeGroup(prepared.before))
}
