/**
 * Who may use a tunnel. The server has shown its key in TLS; the client proves its own by a signature:
 *
 *   server: {nonce}   client: {key, signature over context, nonce, the server's id}   server: {welcome} or {refused}
 *
 * The server's id in what is signed makes the answer worthless to any other server. Frames are JSON (pump.ts).
 */
import { createHash, createPrivateKey, createPublicKey, randomBytes, sign, verify } from 'node:crypto'

const context = 'understudy tunnel 1\n'
const nonceBytes = 32

export interface Challenge {
  nonce: string
}

export interface Answer {
  /** DER SubjectPublicKeyInfo, base64. */
  key: string
  signature: string
}

export function newChallenge(): Challenge {
  return { nonce: randomBytes(nonceBytes).toString('base64') }
}

/** Of a public key in DER: SHA-256, 64 hexadecimal digits (native/quic/identity.cc). */
export const idOfKey = (der: Uint8Array): string => createHash('sha256').update(der).digest('hex')

export function answerChallenge(challenge: unknown, pem: string, serverId: string): Answer {
  const { nonce } = asTable(challenge)
  if (typeof nonce !== 'string' || Buffer.from(nonce, 'base64').length !== nonceBytes)
    throw new Error('the standby sent no challenge')
  const key = createPrivateKey(pem)
  return {
    key: createPublicKey(key).export({ format: 'der', type: 'spki' }).toString('base64'),
    signature: sign(digestOf(key.asymmetricKeyType), signed(nonce, serverId), key).toString('base64'),
  }
}

/** The client's id, proven; undefined: it is not. */
export function provenId(answer: unknown, { nonce }: Challenge, serverId: string): string | undefined {
  const { key, signature } = asTable(answer)
  if (typeof key !== 'string' || typeof signature !== 'string') return undefined
  try {
    const der = Buffer.from(key, 'base64')
    const publicKey = createPublicKey({ key: der, format: 'der', type: 'spki' })
    const digest = digestOf(publicKey.asymmetricKeyType)
    const good = verify(digest, signed(nonce, serverId), publicKey, Buffer.from(signature, 'base64'))
    // The id is that of the key's canonical form, whatever the client wrapped around it.
    return good ? idOfKey(publicKey.export({ format: 'der', type: 'spki' })) : undefined
  } catch {
    return undefined
  }
}

const signed = (nonce: string, serverId: string): Buffer => Buffer.from(`${context}${nonce}\n${serverId}\n`)

/** Ed25519 digests by itself. */
const digestOf = (type: string | undefined): string | null => (type === 'ed25519' ? null : 'sha256')

const asTable = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
