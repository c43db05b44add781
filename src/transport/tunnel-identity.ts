/** This host's key as the tunnel uses it. */
import { endorsementOf } from '../core/endorsement.js'
import type { Addon } from '../native/binding.js'
import type { TunnelIdentity } from './tunnel/tunnel-messages.js'

/** WebTransport takes a certificate by its hash only when it is valid for at most two weeks; renewed in time. */
export const certificateSeconds = 13 * 86_400
export const certificateRenewMs = 7 * 86_400_000

export function tunnelIdentity(
  addon: Pick<Addon, 'identityCertificate' | 'identityFingerprint'>,
  pem: string,
): TunnelIdentity {
  return {
    pem,
    certificatePem: addon.identityCertificate(pem, certificateSeconds),
    endorsement: endorsementOf(pem),
    id: addon.identityFingerprint(pem),
  }
}
