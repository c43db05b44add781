/**
 * Whether the dirty map can be trusted for the standby that has just said where it stands (G4, G5).
 *
 * The map says: outside of what is marked, the copy `replicaId`, standing at one of `positions`, equals the master
 * device. It says nothing of another copy, nor of this one at an earlier position (a store put back from a backup).
 * Then everything is compared by hash, and only what differs travels.
 */
import { isSameAlias } from '../core/reigns.js'
import type { Welcome } from '../transport/messages.js'

/** A copy stands well here: in `incarnation`, with at least everything up to `durable`. */
export interface KnownPosition {
  incarnation: bigint
  durable: bigint
}

export interface KnownCopy {
  replicaId: string
  positions: KnownPosition[]
}

export interface AttachFacts {
  /** Of this start of the master. */
  incarnation: bigint
  /** The most the standby has acknowledged as durable in this incarnation; 0: nothing. */
  durable: bigint
  /** Undefined: the map was not kept for any copy (first start, or the last stop was not clean). */
  known: KnownCopy | undefined
  welcome: Pick<Welcome, 'replicaId' | 'alias' | 'incarnation' | 'received' | 'fresh' | 'initial'>
}

export interface AttachDecision {
  fresh: boolean
  initial: boolean
  allDirty: boolean
  /** For the log. */
  why: string
}

export function decideAttach({ incarnation, durable, known, welcome }: AttachFacts): AttachDecision {
  const compareAll = (why: string): AttachDecision => ({ fresh: false, initial: welcome.initial, allDirty: true, why })
  if (welcome.incarnation === 0n) {
    const why = welcome.fresh ? 'the standby is empty' : 'the standby has no history'
    return { fresh: welcome.fresh, initial: true, allDirty: true, why }
  }
  if (known === undefined)
    return compareAll('nothing is known of what the standby has (first start, or the last stop was not clean)')
  if (known.replicaId !== welcome.replicaId && !isSameAlias(known.replicaId, welcome.alias))
    return compareAll('the standby has another copy than last time')
  const position = known.positions.find(candidate => candidate.incarnation === welcome.incarnation)
  if (position === undefined) return compareAll('the standby stands in a history that is not known here')
  const needed = welcome.incarnation === incarnation ? durable : position.durable
  if (welcome.received < needed || (welcome.incarnation !== incarnation && durable > 0n)) {
    return compareAll('the standby has less than it had acknowledged')
  }
  return { fresh: false, initial: welcome.initial, allDirty: false, why: 'the standby stands where it was left' }
}

/** What is known once the engine has been attached as decided. */
export function knownAfterAttach(facts: AttachFacts, decision: AttachDecision): KnownCopy {
  const here: KnownPosition = { incarnation: facts.incarnation, durable: facts.durable }
  const earlier = decision.allDirty ? [] : (facts.known?.positions ?? [])
  const others = earlier.filter(position => position.incarnation !== facts.incarnation)
  return { replicaId: facts.welcome.replicaId, positions: [...others, here] }
}

/** What to keep for the next start: once something of this incarnation is durable, no earlier position is good. */
export function knownAtStop(known: KnownCopy | undefined, incarnation: bigint, durable: bigint): KnownCopy | undefined {
  if (known === undefined || durable === 0n) return known
  return { replicaId: known.replicaId, positions: [{ incarnation, durable }] }
}
