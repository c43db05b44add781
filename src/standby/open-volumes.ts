/** Groups of the engine that are not replicated: frozen views of copies, and what was saved of one. */
import { NativeError } from '../core/errors.js'
import type { Addon, DeviceInfo, GroupSpec, OpenedGroup } from '../native/binding.js'

export interface ExportedVolume {
  name: string
  volume: number
  device: DeviceInfo
  readOnly: boolean
  counterPage: number
}

export interface OpenVolumes {
  /** OpenedGroup.counterPage */
  counterPage: number
  exported: ExportedVolume[]
  /** Answers what is in flight, then closes. */
  close(): Promise<void>
}

const peerTimeoutMs = 5_000

/** `views`: handles of Addon.replicaViewAt(), by volume. */
export function viewGroup(
  addon: Addon,
  name: string,
  views: readonly { name: string; view: number; tail?: Uint8Array }[],
  writable: boolean,
  incarnation: bigint,
): OpenVolumes {
  const volumes = views.map(({ name: volume, ...device }) => ({ name: volume, device, readOnly: !writable }))
  return open(addon, { name, volumes, incarnation })
}

/** A file, read-only. */
export function savedGroup(addon: Addon, name: string, path: string, incarnation: bigint): OpenVolumes {
  return open(addon, { name, volumes: [{ name, device: { path }, readOnly: true }], incarnation })
}

function open(addon: Addon, spec: Pick<GroupSpec, 'name' | 'volumes' | 'incarnation'>): OpenVolumes {
  let opened: OpenedGroup
  try {
    opened = addon.openGroup({
      ...spec,
      durability: 'flush',
      onStandbyLoss: 'continue',
      logBytes: 0,
      peerTimeoutMs,
      replicated: false,
    })
  } catch (error) {
    throw new NativeError(`open ${spec.name} for clients`, error)
  }
  const exported = spec.volumes.flatMap(({ name, readOnly }, index) => {
    const volume = opened.volumes[index]
    return volume === undefined
      ? []
      : [{ name, volume: volume.volume, device: volume.device, readOnly, counterPage: volume.counterPage }]
  })
  return {
    counterPage: opened.counterPage,
    exported,
    close: async () => {
      await addon.quiesce(opened.group)
      await addon.closeGroup(opened.group)
    },
  }
}
