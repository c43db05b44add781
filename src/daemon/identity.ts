/**
 * This host's key: STATE/identity/key.pem, made once, readable by its owner only. Its fingerprint is the host's id.
 * Two processes that ask at the same moment get the same key: link(2) lets one of them win.
 */
import { closeSync, existsSync, fsyncSync, linkSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'

import { makeDirectory, syncDirectory } from '../core/atomic-file.js'
import { errnoOf, NativeError } from '../core/errors.js'
import { readPrivateFile } from '../core/private-file.js'
import type { Addon } from '../native/binding.js'
import { identityPath } from './state-directory.js'

export interface HostIdentity {
  pem: string
  /** 64 hexadecimal digits. */
  id: string
}

type IdentityAddon = Pick<Addon, 'createIdentity' | 'identityFingerprint'>

/** Reads the key, making it when there is none. STATE must be there. */
export function loadIdentity(state: string, addon: IdentityAddon): HostIdentity {
  const path = identityPath(state)
  const pem = readKey(path) ?? createKey(path, addon)
  try {
    return { pem, id: addon.identityFingerprint(pem) }
  } catch (error) {
    throw new NativeError(`identity ${path}: this is not a usable private key`, error)
  }
}

function readKey(path: string): string | undefined {
  return existsSync(path) ? readPrivateFile(path, 'identity') : undefined
}

function createKey(path: string, addon: IdentityAddon): string {
  const temporary = `${path}.${process.pid}`
  try {
    makeDirectory(dirname(path))
    const pem = addon.createIdentity()
    writeDurably(temporary, pem)
    const won = linkNew(temporary, path)
    unlinkSync(temporary)
    syncDirectory(dirname(path))
    return won ? pem : readFileSync(path, 'utf8')
  } catch (error) {
    throw new NativeError(`identity ${path}: cannot make it`, error)
  }
}

function linkNew(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false
    throw error
  }
}

function writeDurably(path: string, text: string): void {
  const descriptor = openSync(path, 'w', 0o600)
  try {
    writeSync(descriptor, text)
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}
