/** Certificates and pre-shared keys for TLS tests, made with GnuTLS's own tools (package gnutls-bin). */
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { succeed } from './daemon.js'

/** A directory that server, libnbd and qemu take alike: ca-cert.pem, server-*.pem, client-*.pem. */
export async function makePki(folder: string, name: string): Promise<string> {
  const directory = join(folder, name)
  mkdirSync(directory)
  await authority(directory, name)
  await certificate(directory, 'server', 'tls_www_server')
  await certificate(directory, 'client', 'tls_www_client')
  return directory
}

/** The client of one authority, who trusts another. */
export function mixedPki(folder: string, name: string, trusted: string, client: string, files = 'client'): string {
  const directory = join(folder, name)
  mkdirSync(directory)
  copyFileSync(join(trusted, 'ca-cert.pem'), join(directory, 'ca-cert.pem'))
  for (const kind of ['cert', 'key'])
    copyFileSync(join(client, `${files}-${kind}.pem`), join(directory, `client-${kind}.pem`))
  return directory
}

export async function makePsk(file: string, user: string): Promise<string> {
  await succeed('psktool', ['-u', user, '-p', file])
  chmodSync(file, 0o600)
  return file
}

async function authority(directory: string, name: string): Promise<void> {
  const template = join(directory, 'ca.template')
  writeFileSync(template, `cn = ${name}\nca\ncert_signing_key\n`)
  const key = await privateKey(directory, 'ca')
  const out = ['--outfile', join(directory, 'ca-cert.pem')]
  await succeed('certtool', ['--generate-self-signed', '--load-privkey', key, '--template', template, ...out])
}

async function certificate(directory: string, name: string, purpose: string): Promise<void> {
  const template = join(directory, `${name}.template`)
  writeFileSync(template, `cn = ${name}\ndns_name = localhost\nip_address = 127.0.0.1\n${purpose}\nsigning_key\n`)
  const key = await privateKey(directory, name)
  await succeed('certtool', [
    ...['--generate-certificate', '--load-privkey', key, '--template', template],
    ...['--load-ca-certificate', join(directory, 'ca-cert.pem'), '--load-ca-privkey', join(directory, 'ca-key.pem')],
    ...['--outfile', join(directory, `${name}-cert.pem`)],
  ])
}

async function privateKey(directory: string, name: string): Promise<string> {
  const file = join(directory, `${name}-key.pem`)
  await succeed('certtool', ['--generate-privkey', '--key-type', 'ecdsa', '--outfile', file])
  chmodSync(file, 0o600)
  return file
}

/** Puts a ca-crl.pem there that revokes the client's certificate. */
export async function revokeClient(directory: string): Promise<void> {
  const at = (name: string): string => join(directory, name)
  writeFileSync(at('crl.template'), 'crl_next_update = 100\ncrl_number = 1\n')
  await succeed('certtool', [
    ...['--generate-crl', '--load-ca-privkey', at('ca-key.pem'), '--load-ca-certificate', at('ca-cert.pem')],
    ...['--load-certificate', at('client-cert.pem'), '--template', at('crl.template'), '--outfile', at('ca-crl.pem')],
  ])
}
