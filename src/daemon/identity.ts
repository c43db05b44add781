/**
 * This host's key: STATE/identity/key.pem, made once, readable by its owner only. Its fingerprint is the host's id.
 * Two processes that ask at the same moment get the same key: link(2) lets one of them win.
 *
 * rotate() puts another in its place, in one rename, with an endorsement by the former key behind it: until finish()
 * takes that away, peers know this host by either id. The former key itself is gone with the rename. Only who holds the
 * lock of STATE may rotate.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'

import { makeDirectory, syncDirectory } from '../core/atomic-file.js'
import { endorsementOf, formerIdOf, withoutEndorsement } from '../core/endorsement.js'
import { errnoOf, NativeError, SafetyRefusal } from '../core/errors.js'
import { readPrivateFile } from '../core/private-file.js'
import type { Addon } from '../native/binding.js'
import { identityPath } from './state-directory.js'

type IdentityAddon = Pick<Addon, 'createIdentity' | 'identityFingerprint'>
type RotatingAddon = Pick<Addon, 'createSuccessor' | 'identityFingerprint'>

export class HostIdentity {
  private readonly listeners = new Set<() => void>()

  constructor(
    /** The key, and its endorsement. */
    public pem: string,
    /** 64 hexadecimal digits. */
    public id: string,
    /** While the key is being rotated: the id before. */
    public formerId: string,
  ) {}

  onChange(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** On disk when it returns; new sessions use it. */
  rotate(state: string, addon: RotatingAddon): void {
    if (this.formerId !== '')
      throw new SafetyRefusal(
        'ROTATING',
        `identity: it is being rotated, from ${this.formerId} to ${this.id}; when every peer names the new id: understudy identity rotate --finish`,
      )
    this.replace(state, addon.createSuccessor(this.pem), addon)
  }

  /** The former id is not this host's any more. */
  finish(state: string, addon: RotatingAddon): void {
    if (this.formerId === '') throw new SafetyRefusal('NOT_ROTATING', 'identity: it is not being rotated')
    this.replace(state, withoutEndorsement(this.pem), addon)
  }

  private replace(state: string, pem: string, addon: RotatingAddon): void {
    const next = identityFrom(pem, addon)
    const path = identityPath(state)
    try {
      writeDurably(`${path}.new`, pem)
      renameSync(`${path}.new`, path)
      syncDirectory(dirname(path))
    } catch (error) {
      throw new NativeError(`identity ${path}: cannot replace it`, error)
    }
    ;({ pem: this.pem, id: this.id, formerId: this.formerId } = next)
    for (const listener of this.listeners) listener()
  }
}

/** Reads the key, making it when there is none. STATE must be there. */
export function loadIdentity(state: string, addon: IdentityAddon): HostIdentity {
  const path = identityPath(state)
  const pem = readKey(path) ?? createKey(path, addon)
  try {
    return identityFrom(pem, addon)
  } catch (error) {
    throw new NativeError(`identity ${path}: this is not a usable private key`, error)
  }
}

function identityFrom(pem: string, addon: Pick<Addon, 'identityFingerprint'>): HostIdentity {
  const id = addon.identityFingerprint(pem)
  return new HostIdentity(pem, id, formerIdOf(endorsementOf(pem), id))
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
