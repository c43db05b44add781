/**
 * The endorsement behind a rotated key (native/quic/certificates.h): the certificate of the new key, signed by the former
 * one, and the former key's own. Whoever takes it knows that both ids are of the same host.
 */
import { createHash, X509Certificate } from 'node:crypto'

const certificate = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g
const bytesMax = 16 << 10

/** Of a public key in DER: SHA-256, 64 hexadecimal digits (native/quic/identity.cc). */
export const idOfKey = (der: Uint8Array): string => createHash('sha256').update(der).digest('hex')

/** PEM; '': the key is not being rotated. */
export const endorsementOf = (keyPem: string): string => (keyPem.match(certificate) ?? []).join('')

export const withoutEndorsement = (keyPem: string): string => keyPem.replace(certificate, '')

/** The id that the host of `id` had before; '' when `endorsement`, whoever sent it, does not prove that. */
export function formerIdOf(endorsement: unknown, id: string): string {
  if (typeof endorsement !== 'string' || endorsement === '' || endorsement.length > bytesMax) return ''
  try {
    const [own, former] = (endorsement.match(certificate) ?? []).map(pem => new X509Certificate(pem))
    if (own === undefined || former === undefined || idOfCertificate(own) !== id) return ''
    return own.verify(former.publicKey) ? idOfCertificate(former) : ''
  } catch {
    return ''
  }
}

export const idOfCertificate = ({ publicKey }: X509Certificate): string =>
  idOfKey(publicKey.export({ format: 'der', type: 'spki' }))
