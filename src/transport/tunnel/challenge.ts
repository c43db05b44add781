/**
 * Who may use a tunnel. The server has shown its key in TLS; the client proves its own by a signature:
 *
 *   server: {nonce}   client: {key, signature over context, nonce, the server's id}   server: {welcome} or {refused}
 *
 * Either adds the endorsement of a key that is being rotated.
 *
 * The server's id in what is signed makes the answer worthless to any other server. Frames are JSON (pump.ts).
 */
import { createPrivateKey, createPublicKey, randomBytes, sign, verify } from 'node:crypto'

import { endorsementOf, formerIdOf, idOfKey } from '../../core/endorsement.js'

const context = 'understudy tunnel 1\n'
const nonceBytes = 32

export interface Challenge {
  nonce: string
  endorsement?: string
}

export interface Answer {
  /** DER SubjectPublicKeyInfo, base64. */
  key: string
  signature: string
  endorsement?: string
}

export function newChallenge(endorsement: string): Challenge {
  return { nonce: randomBytes(nonceBytes).toString('base64'), ...endorsed(endorsement) }
}

export function answerChallenge(challenge: unknown, pem: string, serverId: string): Answer {
  const { nonce } = asTable(challenge)
  if (typeof nonce !== 'string' || Buffer.from(nonce, 'base64').length !== nonceBytes)
    throw new Error('the standby sent no challenge')
  const key = createPrivateKey(pem)
  return {
    key: createPublicKey(key).export({ format: 'der', type: 'spki' }).toString('base64'),
    signature: sign(digestOf(key.asymmetricKeyType), signed(nonce, serverId), key).toString('base64'),
    ...endorsed(endorsementOf(pem)),
  }
}

/** The client's ids, proven: its key's, and the one before. Empty: neither is. */
export function provenIds(answer: unknown, { nonce }: Challenge, serverId: string): string[] {
  const { key, signature, endorsement } = asTable(answer)
  if (typeof key !== 'string' || typeof signature !== 'string') return []
  try {
    const der = Buffer.from(key, 'base64')
    const publicKey = createPublicKey({ key: der, format: 'der', type: 'spki' })
    const digest = digestOf(publicKey.asymmetricKeyType)
    const good = verify(digest, signed(nonce, serverId), publicKey, Buffer.from(signature, 'base64'))
    // The id is that of the key's canonical form, whatever the client wrapped around it.
    if (!good) return []
    const id = idOfKey(publicKey.export({ format: 'der', type: 'spki' }))
    return [id, formerIdOf(endorsement, id)].filter(Boolean)
  } catch {
    return []
  }
}

const endorsed = (endorsement: string): { endorsement?: string } => (endorsement === '' ? {} : { endorsement })

const signed = (nonce: string, serverId: string): Buffer => Buffer.from(`${context}${nonce}\n${serverId}\n`)

/** Ed25519 digests by itself. */
const digestOf = (type: string | undefined): string | null => (type === 'ed25519' ? null : 'sha256')

const asTable = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
