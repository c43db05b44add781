/**
 * Errors by kind, counted where the daemon learns of them: from the addon's events, never per request. (Errors of
 * requests are counted by the engine, per volume and kind of request.)
 */
import type { AddonEvent } from '../native/binding.js'

export const errorKinds = [
  'connection',
  'device',
  'replica',
  'session_peer_not_allowed',
  'session_protocol',
  'session_refused_by_peer',
  'session_timeout',
] as const
export type ErrorKind = (typeof errorKinds)[number]

export class ErrorCounts {
  readonly #counts = new Map<ErrorKind, number>(errorKinds.map(kind => [kind, 0]))

  /** Takes any event; counts it if it tells of an error. */
  observe(event: AddonEvent): void {
    const kind = errorKindOf(event)
    if (kind !== undefined) this.#counts.set(kind, this.read(kind) + 1)
  }

  read(kind: ErrorKind): number {
    return this.#counts.get(kind) ?? 0
  }
}

function errorKindOf(event: AddonEvent): ErrorKind | undefined {
  switch (event.type) {
    case 'disconnected':
      return event.reason === '' ? undefined : 'connection'
    case 'device-error':
      return 'device'
    case 'replica-error':
      return 'replica'
    case 'session-closed':
      return sessionErrorKind(event.reason)
    default:
      return undefined
  }
}

function sessionErrorKind(reason: Extract<AddonEvent, { type: 'session-closed' }>['reason']): ErrorKind | undefined {
  switch (reason) {
    case 'timeout':
      return 'session_timeout'
    case 'peer-not-allowed':
      return 'session_peer_not_allowed'
    case 'refused-by-peer':
      return 'session_refused_by_peer'
    case 'protocol':
      return 'session_protocol'
    case 'local':
    case 'peer':
      return undefined // asked for by one of the two sides
  }
}
