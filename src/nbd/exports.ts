/**
 * What an export is to the handshake: a name, a volume of the engine, and what a client is told of it.
 */
import type { DeviceInfo } from '../native/binding.js'
import { defaultBlock, metaContext, transmissionFlag, type MetaContext } from './constants.js'

export interface NbdExport {
  name: string
  /** For people; '' for none. */
  description: string
  /** The engine's handle, for adopt(). */
  volume: number
  device: DeviceInfo
  readOnly: boolean
  /** A standby is to have what is written here. Default: false. */
  replicated?: boolean
}

/** Asked anew for every option, so that exports may come and go while clients negotiate. */
export interface ExportSource {
  lookup(name: string): NbdExport | undefined
  list(): NbdExport[]
}

/** proto.md, NBD_OPT_EXPORT_NAME: the empty name stands for the default export; here the only one, when there is just one. */
export function findExport(source: ExportSource, name: string): NbdExport | undefined {
  const named = source.lookup(name)
  if (named !== undefined || name !== '') return named
  const all = source.list()
  return all.length === 1 ? all[0] : undefined
}

/**
 * proto.md, "Transmission flags". DF needs structured replies (or extended headers, which imply them). The commands that
 * write are not offered on a read-only export; a client that sends them all the same gets EPERM from the engine.
 */
export function transmissionFlags(target: NbdExport, structuredReplies: boolean): number {
  const flag = transmissionFlag
  let flags = flag.HAS_FLAGS | flag.SEND_FLUSH | flag.SEND_FUA | flag.CAN_MULTI_CONN | flag.SEND_CACHE
  if (structuredReplies) flags |= flag.SEND_DF
  if (target.readOnly || target.device.readOnly) return flags | flag.READ_ONLY
  flags |= flag.SEND_WRITE_ZEROES | flag.SEND_FAST_ZERO
  return target.device.canZero ? flags | flag.SEND_TRIM : flags
}

export function metaContexts({ replicated = false }: NbdExport): MetaContext[] {
  const { allocation, ...ofReplication } = metaContext
  return replicated ? [allocation, ...Object.values(ofReplication)] : [allocation]
}

/** Whether a client that is told nothing of block sizes would go wrong. */
export function hasDefaultBlockSizes(device: DeviceInfo): boolean {
  return (
    device.blockMin === defaultBlock.min &&
    device.blockPreferred === defaultBlock.preferred &&
    device.blockMax >= defaultBlock.maxAtLeast
  )
}
