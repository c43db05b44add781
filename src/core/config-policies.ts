/** The keys of a [[group]] that say what link and resynchronisation may take. */
import type { TableReader } from './config-reader.js'
import type { GroupConfig } from './config-types.js'
import { parseRate } from './units.js'

type Policies = Pick<GroupConfig, 'bandwidth' | 'resyncRate'>

export function readPolicies(table: TableReader): Policies {
  return {
    bandwidth: table.parsed('bandwidth', parseLimit, true) ?? 0,
    resyncRate: table.parsed('resync_rate', parseLimit, true) ?? 0,
  }
}

/** Bytes a second; 0: no limit. */
function parseLimit(text: string): number {
  return text.trim() === '0' ? 0 : parseRate(text)
}
