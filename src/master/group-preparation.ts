/**
 * Everything about a group that can be judged before a device is opened or a file written: sizes, identities, ranges,
 * and whether the last stop left something to rely on. A refusal here leaves no trace.
 */
import { type DeviceFacts, readDeviceFacts } from '../core/device-facts.js'
import type { FilterConfig, GroupConfig, VolumeConfig } from '../core/config-types.js'
import { NativeError } from '../core/errors.js'
import type { Handed } from '../core/handed.js'
import type { Logger } from '../core/log.js'
import { random64 } from '../core/random64.js'
import { firstReign, type Reign } from '../core/reigns.js'
import { parseFileRules } from '../filter/file-rules.js'
import { type CompiledFilter, type Installed, RangeFollower } from '../filter/follow.js'
import type { FilterPolicy } from '../filter/policy.js'
import type { Addon } from '../native/binding.js'
import type { KnownCopy } from './attach-decision.js'
import { type CleanStop, type GroupRecord, type LiveMaps, readGroup } from './group-file.js'
import { decodeHanded, type HandedGroup } from './handed-group.js'
import { readFiles, type ReadingCalls } from './read-files.js'
import { identifyCopy, identifyVolume, type VolumeIdentity } from './volume-file.js'

export interface PreparedVolume {
  config: VolumeConfig
  identity: VolumeIdentity
  /** The file of the identity is still to be written. */
  isNew: boolean
  facts: DeviceFacts
  follower: RangeFollower
  /** What the policy and the device say now. */
  ranges: CompiledFilter
  /** What was left out when the group ran last, if it did. */
  excludedBefore: BigUint64Array | undefined
  /** Of that, with rules for files, what these had no say in. */
  fixedBefore: BigUint64Array | undefined
}

export interface PreparedGroup {
  volumes: PreparedVolume[]
  incarnation: bigint
  /** All reigns up to this one. */
  history: Reign[]
  /** The group's file as it was found. */
  before: GroupRecord | undefined
  /** The devices were a master's before, or a standby's images. */
  servedBefore: boolean
  /** The last stop was a clean one, and nothing has happened since. */
  clean: CleanStop | undefined
  /** The dirty maps can be relied on, whatever the last stop was. */
  live: LiveMaps | undefined
  /** Another process had it until now, and its maps are handed over. */
  handed: HandedGroup | undefined
}

export interface EngineRanges {
  isWritten: (index: number) => boolean
  /** addon.watchRanges */
  watchRanges: (index: number, watched: BigUint64Array) => Promise<number>
  /** addon.setRanges */
  setRanges: (index: number, compiled: CompiledFilter, mark: number) => Promise<Installed>
}

export interface PreparationDeps {
  addon: Pick<Addon, 'partitions' | 'findFilesystems' | ReadingCalls>
  state: string
  /** Of this start of the host's kernel. */
  bootId: string
  log: Logger
  /** Of the group, once it is open; volumes by their place in it. */
  engine: EngineRanges
}

/** A reign that begins with a promotion: nothing of an earlier one of this host is believed. */
export interface Seed {
  /** What the copies are of. */
  volumes: readonly Omit<VolumeIdentity, 'device'>[]
  history: Reign[]
  /** What was the old master's device, and stood at the fork. */
  known: KnownCopy
  /** No other host has a copy that could be promoted. */
  isOnlyCopy: boolean
  /** The replica that shows what the devices have not yet; until letWrite(). */
  replica?: number
}

export async function prepareGroup(
  config: GroupConfig,
  deps: PreparationDeps,
  seed?: Seed,
  fromPredecessor?: Handed,
): Promise<PreparedGroup> {
  const stored = seed === undefined ? readGroup(deps.state, config.name) : undefined
  const decoded = fromPredecessor && decodeHanded(fromPredecessor)
  const handed = decoded?.incarnation === stored?.incarnation ? decoded : undefined
  const before = stored === undefined || handed === undefined ? stored : asHanded(stored, handed)
  const volumes: PreparedVolume[] = []
  // Clients wait; or file systems are whole only when the standby has given back what this host has lost.
  const isQuick = fromPredecessor !== undefined || (before?.paired !== undefined && before.paired !== deps.bootId)
  for (const [index, volume] of config.volumes.entries())
    volumes.push(await prepareVolume(volume, index, before, deps, isQuick, seed))
  const left = before?.clean ?? before?.live
  const doubt = left === undefined ? undefined : whatHasChanged(left, volumes, handed !== undefined)
  if (doubt !== undefined) deps.log.warn(`group ${config.name}: ${doubt}; everything will be compared with the standby`)
  return {
    volumes,
    incarnation: random64(),
    history: seed?.history ?? historyOf(before),
    before,
    servedBefore: before !== undefined || seed !== undefined,
    clean: doubt === undefined ? before?.clean : undefined,
    live: doubt === undefined ? before?.live : undefined,
    handed: doubt === undefined ? handed : undefined,
  }
}

function asHanded({ live, ...stored }: GroupRecord, { clean, kept }: HandedGroup): GroupRecord {
  return { ...stored, ...(live !== undefined && kept ? { live } : {}), clean }
}

function historyOf(before: GroupRecord | undefined): Reign[] {
  if (before !== undefined && before.history.length > 0) return before.history
  return [firstReign(random64().toString(16).padStart(16, '0'), new Date().toISOString())]
}

async function prepareVolume(
  config: VolumeConfig,
  index: number,
  before: GroupRecord | undefined,
  deps: PreparationDeps,
  isQuick: boolean,
  seed: Seed | undefined,
): Promise<PreparedVolume> {
  const facts = readDeviceFacts(config.device, `volume ${config.name}`)
  const known = seed?.volumes.find(({ name }) => name === config.name)
  const { identity, isNew } =
    known === undefined
      ? identifyVolume(deps.state, config.name, config.device, facts.sizeBytes)
      : { identity: identifyCopy(known, config.device, facts.sizeBytes), isNew: true }
  const follower = new RangeFollower({
    policy: policyOf(config),
    sizeBytes: facts.sizeBytes,
    device: config.device,
    readEntries: () => deps.addon.partitions(config.device),
    findFileSystems: () => deps.addon.findFilesystems(config.device),
    readFiles: followed =>
      readFiles(deps.addon, config.device, followed).catch((error: unknown) => {
        throw new NativeError(`volume ${config.name}`, error)
      }),
    isWritten: () => deps.engine.isWritten(index),
    watchRanges: watched => deps.engine.watchRanges(index, watched),
    setRanges: (compiled, mark) => deps.engine.setRanges(index, compiled, mark),
    log: (level, message) => deps.log[level](`volume ${config.name}: ${message}`),
  })
  const excluded = before?.excluded[identity.uuid]
  const fixed = before?.fixed?.[identity.uuid]
  const ranges = await follower.start(isQuick && excluded !== undefined)
  return {
    config,
    identity,
    isNew,
    facts,
    follower,
    ranges,
    excludedBefore: excluded === undefined ? undefined : BigUint64Array.from(excluded),
    fixedBefore: fixed === undefined ? undefined : BigUint64Array.from(fixed),
  }
}

export function policyOf({ partitions, exclude, files }: FilterConfig): FilterPolicy {
  if (files === undefined) return { partitions, exclude }
  return { partitions, exclude, files: { rules: parseFileRules(files.exclude, files.only), fallback: files.fallback } }
}

/** Why the dirty maps of the last stop cannot be believed; undefined: they can. */
function whatHasChanged(left: CleanStop | LiveMaps, volumes: PreparedVolume[], isHanded: boolean): string | undefined {
  if (left.volumes.length !== volumes.length) return 'the volumes of the group have changed'
  for (const [index, volume] of volumes.entries()) {
    const then = left.volumes[index]
    if (then?.uuid !== volume.identity.uuid) return 'the volumes of the group have changed'
    if (then.device !== volume.config.device)
      return `volume ${volume.config.name} is on another device than before (${then.device})`
    // After a crash nobody knows when the device was last written to by us; and whoever opens it to go on leaves a mark.
    if (
      !isHanded &&
      'sequence' in left &&
      (then as CleanStop['volumes'][number]).changeMark !== volume.facts.changeMark
    )
      return `${volume.config.device} was changed by another program since the last stop`
  }
  return undefined
}
