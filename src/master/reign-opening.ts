/** The reign of a group that this host had a copy of: its files, and what its dirty maps say when it is over. */
import type { GroupConfig } from '../core/config-types.js'
import type { Position } from '../core/reigns.js'
import type { KnownPosition } from './attach-decision.js'
import { dirtyMapPath, readGroup } from './group-file.js'
import type { Seed } from './group-preparation.js'
import { type MasterDeps, MasterGroup } from './master-group.js'

interface CopiedVolume {
  name: string
  uuid: string
  sizeBytes: bigint
}

const runsMax = 4096

export function openReign(
  { config, volumes, seed }: { config: GroupConfig; volumes: CopiedVolume[]; seed?: Omit<Seed, 'volumes'> },
  deps: MasterDeps,
): Promise<MasterGroup> {
  return MasterGroup.open(config, deps, seed && { ...seed, volumes })
}

/**
 * The maps hold for a side that has all it had acknowledged. One that went on at `fork`, and that was before (promote --at),
 * lacks more than they mark. Undefined: it is not known where it went on, or nowhere from here.
 */
export async function suspectsOf(
  group: string,
  volumes: readonly CopiedVolume[],
  fork: Position | undefined,
  { addon, stateDirectory }: Pick<MasterDeps, 'addon' | 'stateDirectory'>,
): Promise<Record<string, bigint[]> | undefined> {
  const record = readGroup(stateDirectory, group)
  const known = record?.clean?.known ?? record?.live?.known
  if (known === undefined) return undefined
  const hasAllOf = ({ incarnation, durable }: KnownPosition): boolean =>
    incarnation === fork?.incarnation && durable <= fork.sequence
  if (fork !== undefined && !known.positions.some(hasAllOf)) return undefined
  const found: Record<string, bigint[]> = {}
  for (const { name, uuid, sizeBytes } of volumes) {
    const path = dirtyMapPath(stateDirectory, name)
    try {
      found[name] = [...(await addon.readMap({ path, uuid, sizeBytes, runsMax }))]
    } catch {
      return undefined
    }
  }
  return found
}
