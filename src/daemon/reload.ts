/** What a changed understudy.toml asks of a running daemon, and what of it needs a restart. */
import type { Config, FilterConfig, GroupConfig, VolumeConfig } from '../core/config-types.js'
import { describe } from '../core/errors.js'
import { formatAddress, formatSize, type ListenAddress } from '../core/units.js'

export interface ReloadPlan {
  addGroups: GroupConfig[]
  removeGroups: string[]
  addListeners: ListenAddress[]
  removeListeners: ListenAddress[]
  filters: ChangedFilter[]
  /** The new list, when it changed. */
  allow?: string[]
  /** The standby's maximum, when it changed. */
  stagingBytes?: number
  /** One line for each change that was not carried out. */
  needRestart: string[]
}

interface ChangedFilter {
  group: string
  volume: string
  filter: FilterConfig
}

export function planReload(before: Config, after: Config): ReloadPlan {
  const old = new Map(before.groups.map(group => [group.name, group]))
  const wanted = new Map(after.groups.map(group => [group.name, group]))
  const oldListeners = new Set(before.nbd.listen.map(formatAddress))
  const newListeners = new Set(after.nbd.listen.map(formatAddress))
  const plan: ReloadPlan = {
    addGroups: after.groups.filter(group => !old.has(group.name)),
    removeGroups: before.groups.filter(group => !wanted.has(group.name)).map(group => group.name),
    addListeners: after.nbd.listen.filter(address => !oldListeners.has(formatAddress(address))),
    removeListeners: before.nbd.listen.filter(address => !newListeners.has(formatAddress(address))),
    filters: before.groups.flatMap(group => changedFilters(group, wanted.get(group.name))),
    needRestart: restartReasons(before, after),
  }
  if (before.standby !== undefined && after.standby !== undefined && !same(before.standby.allow, after.standby.allow)) {
    plan.allow = after.standby.allow
  }
  if (before.standby !== undefined && after.standby?.stagingBytes !== before.standby.stagingBytes)
    plan.stagingBytes = after.standby?.stagingBytes ?? before.standby.stagingBytes
  return plan
}

export interface ReloadSteps {
  /** Undefined: it is not open. */
  closeGroup(name: string): Promise<void> | undefined
  openGroup(group: GroupConfig): Promise<void>
  listen(address: ListenAddress): void
  unlisten(address: ListenAddress): void
  allow(ids: string[]): void
  setStaging(bytes: number): void
  changeFilter(changed: ChangedFilter): Promise<void>
  /** Absent: there are none. */
  readTlsAgain?(): void
}

/** A step that fails does not keep the others from being taken. Returns what was done and what was not. */
export async function carryOut(plan: ReloadPlan, steps: ReloadSteps): Promise<string[]> {
  const messages = [...plan.needRestart]
  const apply = async (what: string, change: () => Promise<void> | void, otherwise = ''): Promise<void> => {
    try {
      await change()
      messages.push(what)
    } catch (error) {
      messages.push(`failed: ${what}: ${describe(error)}${otherwise === '' ? '' : `; ${otherwise}`}`)
    }
  }
  for (const name of plan.removeGroups) {
    const closing = steps.closeGroup(name)
    if (closing !== undefined) await apply(`group '${name}' closed`, () => closing)
  }
  for (const address of plan.removeListeners)
    await apply(`no longer listening on ${formatAddress(address)}`, () => steps.unlisten(address))
  for (const address of plan.addListeners)
    await apply(`listening on ${formatAddress(address)}`, () => steps.listen(address))
  for (const changed of plan.filters)
    await apply(
      `filter of volume '${changed.volume}' changed`,
      () => steps.changeFilter(changed),
      'the old one stays in force',
    )
  for (const group of plan.addGroups) await apply(`group '${group.name}' opened`, () => steps.openGroup(group))
  if (steps.readTlsAgain !== undefined)
    await apply('TLS files read again', () => steps.readTlsAgain?.(), 'the old ones stay in force')
  const { allow, stagingBytes } = plan
  if (allow !== undefined) await apply(`${allow.length} masters listed in allow`, () => steps.allow(allow))
  if (stagingBytes !== undefined)
    await apply(stagingBytes === 0 ? 'staging has no maximum' : `staging: at most ${formatSize(stagingBytes)}`, () =>
      steps.setStaging(stagingBytes),
    )
  return messages
}

/** What is in force after the plan was carried out, as far as it could be: `groups` and `listen` are what is open. */
export function configAfter(before: Config, after: Config, groups: GroupConfig[], listen: ListenAddress[]): Config {
  const config: Config = { ...before, groups, nbd: { ...before.nbd, listen } }
  if (before.standby !== undefined && after.standby !== undefined)
    config.standby = { ...before.standby, allow: after.standby.allow, stagingBytes: after.standby.stagingBytes }
  return config
}

function restartReasons(before: Config, after: Config): string[] {
  const reasons: string[] = []
  const compare = (key: string, old: unknown, wanted: unknown): void => {
    if (!same(old, wanted)) reasons.push(`${key} has changed: restart the daemon to apply it`)
  }
  compare('state', before.state, after.state)
  compare('metrics.listen', before.metrics, after.metrics)
  compare('on_event', before.onEvent, after.onEvent)
  compare('nbd.unix_mode', before.nbd.unixMode, after.nbd.unixMode)
  compare('nbd.unix_group', before.nbd.unixGroup, after.nbd.unixGroup)
  compare('nbd.insecure', before.nbd.insecure, after.nbd.insecure)
  compare('nbd.max_connections', before.nbd.connectionsMax, after.nbd.connectionsMax)
  compare('nbd.tls', before.nbd.tls, after.nbd.tls)
  if ((before.standby === undefined) !== (after.standby === undefined)) {
    reasons.push(`[standby] was ${after.standby === undefined ? 'removed' : 'added'}: restart the daemon to apply it`)
  } else {
    const { allow: _old, stagingBytes: _oldMax, ...oldStandby } = before.standby ?? { allow: [], stagingBytes: 0 }
    const { allow: _new, stagingBytes: _newMax, ...newStandby } = after.standby ?? { allow: [], stagingBytes: 0 }
    compare('[standby]', oldStandby, newStandby)
  }
  for (const group of before.groups) {
    const wanted = after.groups.find(other => other.name === group.name)
    if (wanted !== undefined) compare(`group '${group.name}'`, unfiltered(group), unfiltered(wanted))
  }
  return reasons
}

const filterOf = ({ partitions, exclude, files }: VolumeConfig): FilterConfig =>
  files === undefined ? { partitions, exclude } : { partitions, exclude, files }

const unfiltered = (group: GroupConfig): object => ({
  ...group,
  volumes: group.volumes.map(volume => ({ ...volume, partitions: [], exclude: [], files: undefined })),
})

/** Of volumes that are what they were; another device comes with a restart, and its filter with it. */
function changedFilters(before: GroupConfig, after: GroupConfig | undefined): ChangedFilter[] {
  return before.volumes.flatMap(volume => {
    const wanted = after?.volumes.find(({ name }) => name === volume.name)
    if (wanted?.device !== volume.device || same(filterOf(volume), filterOf(wanted))) return []
    return [{ group: before.name, volume: volume.name, filter: filterOf(wanted) }]
  })
}

const same = (left: unknown, right: unknown): boolean => text(left) === text(right)

function text(value: unknown): string {
  return JSON.stringify(value ?? null, (_key, part: unknown) => {
    if (typeof part === 'bigint') return part.toString()
    return part instanceof Map ? [...(part as Map<unknown, unknown>)] : part
  })
}
