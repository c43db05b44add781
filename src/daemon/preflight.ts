/**
 * What can be seen to be wrong before anything is written: devices that do not exist or are no devices. Whether they
 * are free is for the engine, which opens them exclusively, to say.
 */
import { type Stats, statSync } from 'node:fs'

import type { Config } from '../core/config-types.js'
import { describe, OperationError, UsageError } from '../core/errors.js'
import { parseFileRules } from '../filter/file-rules.js'
import { readTlsFiles } from '../nbd/tls-files.js'
import { cacheProblem, readMemory } from '../recovery/memory.js'

/** One line for each problem. */
export function deviceProblems(config: Config): string[] {
  const problems: string[] = []
  const identities = new Map<string, string>()
  for (const { volumes } of config.groups) {
    for (const volume of volumes) {
      problems.push(
        ...problemsOf(`volume '${volume.name}': device ${volume.device}`, volume.device, identities, volume.name),
      )
    }
  }
  for (const [name, device] of config.standby?.devices ?? []) {
    problems.push(...problemsOf(`standby volume '${name}': device ${device}`, device, identities, name))
  }
  const store = config.standby?.store
  if (store !== undefined && tryStat(store)?.isDirectory() === false)
    problems.push(`store ${store}: it is not a directory`)
  return problems
}

/** Rules for files that are none; one line for each volume. */
export function filterProblems(config: Config): string[] {
  return config.groups.flatMap(({ volumes }) =>
    volumes.flatMap(({ name, files }) => {
      try {
        parseFileRules(files?.exclude ?? [], files?.only ?? [])
        return []
      } catch (error) {
        return [`volume '${name}': ${describe(error)}`]
      }
    }),
  )
}

/** Throws the first of deviceProblems(), and UsageError for rules or TLS files that cannot be used. */
export function preflight(config: Config): void {
  const [problem] = deviceProblems(config)
  if (problem !== undefined) throw new OperationError('DEVICE', problem)
  const [unusable] = [...filterProblems(config), ...tlsProblems(config), ...memoryProblems(config)]
  if (unusable !== undefined) throw new UsageError(unusable)
}

/** A cache that this host can never have; one line. */
export function memoryProblems({ standby }: Config): string[] {
  if (standby === undefined || standby.cacheBytes === 0) return []
  const problem = cacheProblem(standby.cacheBytes, readMemory())
  return problem === '' ? [] : [`cache_size: ${problem}`]
}

/** Files of [nbd] tls that cannot be used; one line, as the first one says enough. */
export function tlsProblems(config: Config): string[] {
  try {
    if (config.nbd.tls !== undefined) readTlsFiles(config.nbd.tls)
    return []
  } catch (error) {
    return [describe(error)]
  }
}

/** `identities` finds one device under two paths: hard links, device nodes of other names. */
function problemsOf(what: string, path: string, identities: Map<string, string>, name: string): string[] {
  let stat: Stats
  try {
    stat = statSync(path)
  } catch (error) {
    return [`${what}: ${describe(error)}`]
  }
  if (!stat.isFile() && !stat.isBlockDevice()) {
    return [`${what}: it is ${stat.isDirectory() ? 'a directory' : 'neither a file nor a block device'}`]
  }
  if (stat.isFile() && stat.size === 0)
    return [`${what}: the file is empty; make it as large as the volume (truncate -s 10G ${path})`]
  const identity = stat.isBlockDevice() ? `block ${stat.rdev}` : `file ${stat.dev} ${stat.ino}`
  const other = identities.get(identity)
  identities.set(identity, name)
  return other === undefined ? [] : [`${what}: it is also the device of volume '${other}'`]
}

function tryStat(path: string): Stats | undefined {
  try {
    return statSync(path)
  } catch {
    return undefined
  }
}
