/**
 * Which masters a standby hears: what the configuration lists, and what `understudy allow` and `revoke` have changed,
 * kept in STATE/allowed.json. A revocation outlives restarts and reloads, whatever the configuration lists, until
 * `allow` takes it back.
 */
import { join } from 'node:path'

import { readJson, writeJson } from '../core/atomic-file.js'
import { OperationError } from '../core/errors.js'
import { parseId } from '../core/units.js'

interface Changes {
  added: Set<string>
  revoked: Set<string>
}

const changesMax = 1024

export class AllowList {
  private readonly path: string
  private changes: Changes

  /** Throws when the file is damaged: to go on without its revocations would let in who was shut out. */
  constructor(
    state: string,
    private configured: readonly string[],
  ) {
    this.path = join(state, 'allowed.json')
    const stored = readJson(this.path) ?? {}
    this.changes = { added: this.idsOf(stored['allowed']), revoked: this.idsOf(stored['revoked']) }
  }

  get ids(): string[] {
    const { added, revoked } = this.changes
    return [...new Set([...this.configured, ...added])].filter(id => !revoked.has(id))
  }

  get revokedIds(): string[] {
    return [...this.changes.revoked]
  }

  configure(ids: readonly string[]): void {
    this.configured = ids
  }

  allow(id: string): void {
    this.change(({ added, revoked }) => {
      if (!this.configured.includes(id)) added.add(id)
      revoked.delete(id)
    })
  }

  revoke(id: string): void {
    this.change(({ added, revoked }) => {
      added.delete(id)
      revoked.add(id)
    })
  }

  /** On disk before it is in force: what was said to be done is still so after a crash. */
  private change(apply: (changes: Changes) => void): void {
    const next = { added: new Set(this.changes.added), revoked: new Set(this.changes.revoked) }
    apply(next)
    if (next.added.size + next.revoked.size > changesMax) {
      const todo = 'list the masters in the configuration, and take what is not needed out of the file'
      throw new OperationError('TOO_MANY', `${this.path} would hold more than ${changesMax} changes; ${todo}`)
    }
    writeJson(this.path, { allowed: [...next.added], revoked: [...next.revoked] })
    this.changes = next
  }

  private idsOf(value: unknown): Set<string> {
    try {
      if (value === undefined) return new Set()
      if (Array.isArray(value)) return new Set(value.map(id => parseId(String(id))))
    } catch {
      // Below.
    }
    throw new OperationError('DAMAGED_FILE', `read ${this.path}: it holds something that is no id; restore the file`)
  }
}
