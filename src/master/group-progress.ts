/**
 * What the counters of a group say, followed over time: watermarks of the current incarnation, the lag in seconds, the
 * rate of a resynchronisation, and since when the group has been in its state. Pure: time and counters come in.
 */
import { getSystemErrorName } from 'node:util'

import type { Compression } from '../core/config-types.js'
import { describe } from '../core/errors.js'
import type { Backlog, ResyncStatus, VolumeState } from '../core/status-types.js'
import { LagSampler } from '../core/lag-sampler.js'
import type { Counters } from '../native/counters.js'
import { Rate } from '../core/rate.js'
import type { LinkState } from './session-keeper.js'

const choices =
  "'understudy resolve VOLUME --keep peer' here saves what only this side has and follows the other, '--keep local' makes the other side do so"

/** GroupCounter `state`. */
const engine = { alone: 0n, detached: 1n, streaming: 2n, resync: 3n } as const
/** WatermarkFlags (native/wire/control.h). */
const peerFlags = { staging: 1n, unusable: 2n } as const

export interface LinkFacts {
  /** Undefined: no standby is configured. */
  state: LinkState | undefined
  /** Why there is no session. */
  reason: string
  refusal: string
  /** The engine has been attached in this session and has not detached since. */
  attached: boolean
  /** How the records of this session travel. */
  compress: Compression
  /** Promoted, and the other side has not been here since. */
  alone: boolean
}

export interface Marks {
  written: bigint
  sent: bigint
  received: bigint
  durable: bigint
  committed: bigint
  applied: bigint
  writtenBytes: bigint
  appliedBytes: bigint
}

export interface GroupState {
  state: VolumeState
  reason: string
}

/** What the standby has of this incarnation: an older history counts as nothing. */
export function marksOf(counters: Counters): Marks {
  const get = (name: string): bigint => counters[name] ?? 0n
  const ours = get('peer_incarnation') === get('incarnation')
  const peer = (name: string): bigint => (ours ? get(name) : 0n)
  return {
    written: get('written_sequence'),
    sent: get('sent_sequence'),
    received: peer('received_sequence'),
    durable: peer('durable_sequence'),
    committed: peer('committed_sequence'),
    applied: peer('applied_sequence'),
    writtenBytes: get('written_bytes'),
    appliedBytes: peer('applied_bytes'),
  }
}

/** Where what the standby lacks is kept. */
export function backlogOf(counters: Counters, groupDirtyBytes: bigint): Backlog {
  const isLogged = counters['state'] === engine.streaming || counters['state'] === engine.resync
  if (!isLogged || groupDirtyBytes > 0n) return 'dirty-map'
  return (counters['log_file_bytes'] ?? 0n) > 0n ? 'file' : 'memory'
}

/** Why the log file is not used; '': it is, or there is none. */
export function logFileTrouble(counters: Counters): string {
  const errno = Number(counters['log_file_errno'] ?? 0n)
  if (errno === 0) return ''
  const code = getSystemErrorName(-errno)
  return `the log file cannot be used (${describe(Object.assign(new Error(code), { code }))}); it is tried again`
}

/** Whether the standby's copy is a cut, as far as it has said so. */
export function isUsable(counters: Counters): boolean {
  return (counters['peer_incarnation'] ?? 0n) !== 0n && ((counters['peer_flags'] ?? 0n) & peerFlags.unusable) === 0n
}

/** What is more important to know comes first. */
export function withReason({ state, reason }: GroupState, first: string): GroupState {
  return { state, reason: [first, reason].filter(Boolean).join('; ') }
}

export function groupState(counters: Counters, link: LinkFacts, dirtyBytes: bigint): GroupState {
  const { state, reason } = linkState(counters, link, dirtyBytes)
  return withReason({ state, reason: logFileTrouble(counters) }, reason)
}

function linkState(counters: Counters, link: LinkFacts, dirtyBytes: bigint): GroupState {
  const state = counters['state'] ?? engine.alone
  if (link.state === undefined) return { state: 'alone', reason: 'no standby is configured' }
  if (link.refusal === 'promoted' || link.refusal === 'diverged')
    return { state: 'diverged', reason: `${link.reason}; ${choices}` }
  if (link.alone) return { state: 'alone', reason: withWhereabouts(link.reason, counters) }
  if (link.state !== 'connected') return { state: 'detached', reason: withWhereabouts(link.reason, counters) }
  if (!link.attached || state === engine.detached || state === engine.alone)
    return { state: 'detached', reason: 'the standby is connected; the session is being set up' }
  const flags = counters['peer_flags'] ?? 0n
  if ((flags & peerFlags.unusable) !== 0n)
    return {
      state: 'initial-sync',
      reason: 'the first copy is being made; the standby is not usable before it is complete',
    }
  if (state === engine.resync) return { state: 'resyncing', reason: 'what the standby lacks is being sent' }
  if ((flags & peerFlags.staging) !== 0n) return { state: 'resyncing', reason: 'the standby is applying a step' }
  if (dirtyBytes > 0n) return { state: 'resyncing', reason: `${dirtyBytes} bytes are marked dirty` }
  if (counters['away'] === 1n)
    return { state: 'replicating', reason: 'the standby makes no progress; its own status says why' }
  if (counters['behind'] === 1n)
    return { state: 'replicating', reason: 'the standby is being sent what is in the log file; no flush waits for it' }
  return { state: 'replicating', reason: '' }
}

function withWhereabouts(reason: string, counters: Counters): string {
  const state = counters['state'] ?? engine.alone
  const where =
    state === engine.streaming || state === engine.resync
      ? `writes are kept in the replication log${(counters['log_file_bytes'] ?? 0n) > 0n ? ' and its file' : ''}`
      : 'writes are marked in the dirty map'
  return reason === '' ? `connecting to the standby; ${where}` : `${reason}; ${where}`
}

export class GroupProgress {
  readonly #lag = new LagSampler()
  readonly #rate = new Rate()
  #state: VolumeState | undefined
  #sinceMs = 0
  /** Wall clock: what a standby lacks since before this start; undefined once it lacks nothing. */
  #carriedSinceMs: number | undefined

  constructor(carriedSinceMs: number | undefined) {
    this.#carriedSinceMs = carriedSinceMs
  }

  /** To be called several times a second. */
  observe(nowMs: number, wallMs: number, counters: Counters, state: VolumeState): void {
    const marks = marksOf(counters)
    this.#lag.observe(nowMs, marks.written, marks.applied)
    if (state === 'replicating') this.#carriedSinceMs = undefined
    if (counters['state'] === engine.resync) this.#rate.observe(nowMs, Number(counters['resync_done_bytes'] ?? 0n))
    if (state !== this.#state) {
      this.#state = state
      this.#sinceMs = wallMs
    }
  }

  get sinceMs(): number {
    return this.#sinceMs
  }

  /** Seconds since the oldest write after `mark`. */
  lagSeconds(nowMs: number, wallMs: number, mark: bigint): number {
    const carried = this.#carriedSinceMs === undefined ? 0 : Math.max(0, wallMs - this.#carriedSinceMs)
    return Math.max(carried, this.#lag.ageMs(nowMs, mark)) / 1000
  }

  /** Wall clock of the oldest write the standby lacks. */
  oldestMissingMs(nowMs: number, wallMs: number, applied: bigint): number | undefined {
    const seconds = this.lagSeconds(nowMs, wallMs, applied)
    return seconds === 0 ? undefined : Math.round(wallMs - seconds * 1000)
  }

  resync(counters: Counters): ResyncStatus | null {
    if (counters['state'] !== engine.resync) return null
    const doneBytes = Number(counters['resync_done_bytes'] ?? 0n)
    const totalBytes = Math.max(doneBytes, Number(counters['resync_total_bytes'] ?? 0n))
    return {
      doneBytes,
      totalBytes,
      rate: this.#rate.bytesPerSecond,
      etaSeconds: this.#rate.secondsFor(totalBytes - doneBytes),
    }
  }
}
