/**
 * STATE/volumes/NAME.verify.json: how the last verify of a volume ended, so that status, metrics and the schedule of
 * scrubs survive a restart. It belongs to the volume's uuid. Without it, or damaged: never verified.
 */
import { join } from 'node:path'

import { readJson, writeJson } from '../core/atomic-file.js'
import type { LastVerify } from '../core/status-types.js'

export const lastVerifyPath = (state: string, name: string): string => join(state, 'volumes', `${name}.verify.json`)

export function saveLastVerify(state: string, name: string, uuid: string, verify: LastVerify): void {
  writeJson(lastVerifyPath(state, name), { version: 1, uuid, ...verify })
}

export function loadLastVerify(state: string, name: string, uuid: string): LastVerify | null {
  let stored
  try {
    stored = readJson(lastVerifyPath(state, name))
  } catch {
    return null // it only says when to look again
  }
  const { time, chunks, different, repaired, unreadableBytes } = stored ?? {}
  if (stored?.['uuid'] !== uuid || typeof time !== 'string' || Number.isNaN(Date.parse(time))) return null
  const count = (value: unknown): number => (typeof value === 'number' ? value : 0)
  return {
    time,
    chunks: count(chunks),
    different: count(different),
    repaired: count(repaired),
    unreadableBytes: count(unreadableBytes),
  }
}
