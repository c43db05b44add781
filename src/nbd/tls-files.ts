/**
 * The files behind --tls-certificates and --tls-psk, under the names that qemu, libnbd and nbdkit gave them:
 *
 *   DIR/server-cert.pem  DIR/server-key.pem  DIR/ca-cert.pem and, if there, DIR/ca-crl.pem (for --tls-verify-peer)
 *   FILE: one USER:HEXKEY a line, as psktool writes it
 *
 * Guarantees: what is unusable is refused with one line, exit code 2; private keys that others may read, too.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import type { TlsConfig } from '../core/config-types.js'
import { describe, errnoOf, UsageError } from '../core/errors.js'
import { readPrivateFile } from '../core/private-file.js'
import type { TlsCredentialsSpec } from '../native/binding.js'

export function readTlsFiles(config: TlsConfig): TlsCredentialsSpec {
  const { certificates: directory, psk, verifyPeer } = config
  const spec: TlsCredentialsSpec = { verifyPeer, psk: psk === undefined ? [] : readPsk(psk) }
  if (directory === undefined) return spec
  spec.certificate = readPublic(join(directory, 'server-cert.pem'))
  spec.key = asUsage(() => readPrivateFile(join(directory, 'server-key.pem'), 'TLS key'))
  if (!verifyPeer) return spec
  spec.authorities = readPublic(join(directory, 'ca-cert.pem'))
  const revoked = join(directory, 'ca-crl.pem')
  if (existsSync(revoked)) spec.revoked = readPublic(revoked)
  return spec
}

/** A user may contain colons, a key does not. */
export function readPsk(file: string): { user: string; key: Buffer }[] {
  const lines = asUsage(() => readPrivateFile(file, 'TLS pre-shared keys')).split(/\r?\n/)
  const keys: { user: string; key: Buffer }[] = []
  for (const [index, line] of lines.entries()) {
    if (line === '' || line.startsWith('#')) continue
    const colon = line.lastIndexOf(':')
    const digits = line.slice(colon + 1)
    if (colon <= 0 || !/^([0-9a-fA-F]{2})+$/.test(digits)) {
      throw new UsageError(
        `TLS pre-shared keys ${file}:${index + 1}: the line is not USER:HEXKEY; psktool -u USER -p ${file} adds one`,
      )
    }
    // A short key could be found by trying.
    if (digits.length < 32)
      throw new UsageError(`TLS pre-shared keys ${file}:${index + 1}: the key is shorter than 16 bytes`)
    keys.push({ user: line.slice(0, colon), key: Buffer.from(digits, 'hex') })
  }
  if (keys.length === 0) throw new UsageError(`TLS pre-shared keys ${file}: there is no key in it`)
  return keys
}

function readPublic(path: string): string {
  return asUsage(() => readFileSync(path, 'utf8'), `TLS certificate ${path}: cannot read it`)
}

/** A path in the configuration that leads nowhere is a fault of the configuration. */
function asUsage<T>(read: () => T, what?: string): T {
  try {
    return read()
  } catch (cause) {
    if (cause instanceof UsageError) throw cause
    if (what === undefined && errnoOf(cause) === undefined) throw cause
    throw new UsageError(what === undefined ? describe(cause) : `${what}: ${describe(cause)}`, { cause })
  }
}
