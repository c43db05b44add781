/** Which version of the link two programs speak together, and what people are told when there is none. */
import { protocol } from './messages.js'

export interface Versions {
  protocol: number
  protocolOldest: number
  program: string
}

/** The newest both speak, or why there is none; `peer` is the master of the sentence, `own` the standby. */
export function chooseVersion(peer: Versions, own: Versions): { version: number } | { problem: string } {
  const version = Math.min(peer.protocol, own.protocol)
  if (version >= peer.protocolOldest && version >= own.protocolOldest) return { version }
  const tooOld = peer.protocol < own.protocol ? 'master' : 'standby'
  return {
    problem: `the master (understudy ${peer.program}) speaks ${span(peer)} of the link, the standby (understudy ${own.program}) ${span(own)}: upgrade the ${tooOld}`,
  }
}

export function ownVersions(program: string): Versions {
  return { protocol: protocol.newest, protocolOldest: protocol.oldest, program }
}

const span = (versions: Versions): string =>
  versions.protocol === versions.protocolOldest
    ? `version ${versions.protocol}`
    : `versions ${versions.protocolOldest} to ${versions.protocol}`
