/** The reign of a group that this host had a copy of: its files, and what its dirty maps say when it is over. */
import { writeJson } from '../core/atomic-file.js'
import type { GroupConfig } from '../core/config-types.js'
import { dirtyMapPath, readGroup } from './group-file.js'
import type { Seed } from './group-preparation.js'
import { type MasterDeps, MasterGroup } from './master-group.js'
import { encodeVolume, volumePath } from './volume-file.js'

interface CopiedVolume {
  name: string
  uuid: string
  sizeBytes: bigint
}

const runsMax = 4096

export function openReign(
  { config, volumes, seed }: { config: GroupConfig; volumes: CopiedVolume[]; seed?: Seed },
  deps: MasterDeps,
): Promise<MasterGroup> {
  if (seed !== undefined) {
    for (const { name, uuid, sizeBytes } of volumes) {
      const device = config.volumes.find(volume => volume.name === name)?.device ?? ''
      writeJson(volumePath(deps.stateDirectory, name), encodeVolume({ name, uuid, device, sizeBytes }))
    }
  }
  return MasterGroup.open(config, deps, seed)
}

export async function suspectsOf(
  group: string,
  volumes: readonly CopiedVolume[],
  { addon, stateDirectory }: Pick<MasterDeps, 'addon' | 'stateDirectory'>,
): Promise<Record<string, bigint[]> | undefined> {
  const record = readGroup(stateDirectory, group)
  if (record?.clean?.known === undefined && record?.live === undefined) return undefined
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
