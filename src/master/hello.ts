/** What a master says of itself at the beginning of a session. */
import { hostname } from 'node:os'

import type { GroupConfig } from '../core/config-types.js'
import { version } from '../core/version.js'
import { type Hello, protocol } from '../transport/messages.js'
import type { GroupRecord } from './group-file.js'
import type { OpenVolume } from './open-volumes.js'

export function helloOf(
  config: GroupConfig,
  record: GroupRecord,
  volumes: readonly OpenVolume[],
  discard: string,
): Hello {
  return {
    protocol: protocol.newest,
    protocolOldest: protocol.oldest,
    program: version,
    group: config.name,
    incarnation: record.incarnation,
    generation: record.generation,
    history: record.history,
    discard,
    durability: config.durability,
    leaseMs: config.leaseMs ?? 0,
    compress: config.compress,
    hostname: hostname(),
    volumes: volumes.map(({ identity, device, follower }) => ({
      name: identity.name,
      uuid: identity.uuid,
      sizeBytes: identity.sizeBytes,
      blockMin: device.blockMin,
      // Of a standby that becomes the master nobody reads file systems: files are replicated then, whatever rules there were.
      // Where such rules were in force, the record holds more than is left out.
      ...(follower.hasFileRules || record.fixed?.[identity.uuid] !== undefined
        ? { excluded: [...(follower.current?.byRanges ?? [])], filesLeftOut: true }
        : { excluded: record.excluded[identity.uuid] ?? [], filesLeftOut: false }),
    })),
  }
}
