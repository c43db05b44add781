/**
 * What memory this process may lock, and what the host has: read from /proc and the memory cgroup it is in.
 *
 * Does not: reserve anything. Two processes that look at the same moment see the same memory.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { formatSize } from '../core/units.js'

export interface Memory {
  /** What may be locked in all (RLIMIT_MEMLOCK); Infinity: no limit, or CAP_IPC_LOCK. */
  lockableBytes: number
  /** Of the host, or of the memory cgroup where that has less. */
  totalBytes: number
  /** What can be had without swapping, as the kernel estimates it; of the cgroup where that has less. */
  availableBytes: number
}

const capIpcLock = 14n

/** `root`: where /proc and /sys are. */
export function readMemory(root = '/'): Memory {
  const text = (path: string): string => {
    try {
      return readFileSync(join(root, path), 'utf8')
    } catch {
      return ''
    }
  }
  const info = text('proc/meminfo')
  const group = readGroup(text)
  const total = kibibytes(info, 'MemTotal')
  const available = kibibytes(info, 'MemAvailable')
  return {
    lockableBytes: lockable(text('proc/self/status'), text('proc/self/limits')),
    totalBytes: Math.min(total, group.totalBytes),
    availableBytes: Math.min(available, group.availableBytes),
  }
}

/** What is left to others whatever the cache may have: a sixteenth of the memory, 64 MiB at least, 1 GiB at most. */
export function reserveBytes({ totalBytes }: Memory): number {
  return Math.min(Math.max(totalBytes / 16, 64 << 20), 1 << 30)
}

/** Why a cache of this size can never be had here, with how much is missing; '' when it can. */
export function cacheProblem(bytes: number, memory: Memory): string {
  const size = formatSize(bytes)
  if (bytes > memory.lockableBytes) {
    const missing = formatSize(bytes - memory.lockableBytes)
    return `no memory for a cache of ${size}: this process may lock ${formatSize(memory.lockableBytes)} (RLIMIT_MEMLOCK), ${missing} are missing; raise it (LimitMEMLOCK= of the systemd unit, ulimit -l), or give it CAP_IPC_LOCK`
  }
  const usable = Math.max(0, memory.totalBytes - reserveBytes(memory))
  if (bytes <= usable) return ''
  return `no memory for a cache of ${size}: this host, or the memory cgroup of this process, has ${formatSize(memory.totalBytes)}, of which ${formatSize(usable)} may be locked; ${formatSize(bytes - usable)} are missing`
}

/** Capabilities(7): who has CAP_IPC_LOCK has no limit. */
function lockable(status: string, limits: string): number {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'
  if ((BigInt(`0x${effective}`) >> capIpcLock) & 1n) return Infinity
  const soft = /^Max locked memory\s+(\S+)/m.exec(limits)?.[1] ?? 'unlimited'
  return soft === 'unlimited' ? Infinity : Number(soft)
}

function kibibytes(info: string, field: string): number {
  const value = new RegExp(`^${field}:\\s*(\\d+) kB$`, 'm').exec(info)?.[1]
  return value === undefined ? Infinity : Number(value) * 1024
}

interface GroupFiles {
  max: string
  current: string
  /** Lines of memory.stat: page cache that gives way. */
  cache: RegExp
}

const versions: Record<'v1' | 'v2', GroupFiles> = {
  v2: { max: 'memory.max', current: 'memory.current', cache: /^(?:in)?active_file (\d+)$/gm },
  v1: {
    max: 'memory.limit_in_bytes',
    current: 'memory.usage_in_bytes',
    cache: /^total_(?:in)?active_file (\d+)$/gm,
  },
}

/** cgroups(7). The cgroup itself and those it is in: the one with the least counts. */
function readGroup(text: (path: string) => string): Pick<Memory, 'totalBytes' | 'availableBytes'> {
  const own = text('proc/self/cgroup')
  const v1 = /^\d+:(?:[^:\n]*,)?memory(?:,[^:\n]*)?:(.*)$/m.exec(own)?.[1]
  const v2 = /^0::(.*)$/m.exec(own)?.[1]
  const files = v1 === undefined ? versions.v2 : versions.v1
  const mount = v1 === undefined ? 'sys/fs/cgroup' : 'sys/fs/cgroup/memory'
  const least = { totalBytes: Infinity, availableBytes: Infinity }
  const parts = (v1 ?? v2 ?? '').split('/').filter(part => part !== '')
  for (let depth = parts.length; depth >= 0; depth--) {
    const folder = join(mount, ...parts.slice(0, depth))
    const max = Number.parseInt(text(join(folder, files.max)), 10) // NaN of "max"
    if (!Number.isFinite(max)) continue
    const used = Number(text(join(folder, files.current)))
    const cache = [...text(join(folder, 'memory.stat')).matchAll(files.cache)].map(([, bytes]) => Number(bytes))
    const free = Math.max(0, max - used + cache.reduce((sum, bytes) => sum + bytes, 0))
    least.totalBytes = Math.min(least.totalBytes, max)
    least.availableBytes = Math.min(least.availableBytes, free)
  }
  return least
}
