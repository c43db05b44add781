/**
 * TLS credentials as the addon has them, by configuration. Reading the files again gives new connections the new ones;
 * sessions that are open keep theirs.
 */
import type { TlsConfig } from '../core/config-types.js'
import { describe, UsageError } from '../core/errors.js'
import type { Addon } from '../native/binding.js'
import type { ServerTls } from '../nbd/server.js'
import { readTlsFiles } from '../nbd/tls-files.js'

interface Loaded {
  config: TlsConfig
  handle: number
}

export class TlsStore {
  private readonly loaded = new Map<string, Loaded>()

  constructor(private readonly addon: Pick<Addon, 'tlsCredentials' | 'dropTlsCredentials'>) {}

  /** Reads the files, also when they were read before. Throws UsageError. */
  open(config: TlsConfig): ServerTls {
    const key = JSON.stringify(config)
    const entry = this.loaded.get(key) ?? { config, handle: 0 }
    this.read(entry)
    this.loaded.set(key, entry)
    return { required: config.required, credentials: () => entry.handle }
  }

  /** Throws UsageError; what could not be read stays as it was. */
  readAgain(): void {
    for (const entry of this.loaded.values()) this.read(entry)
  }

  private read(entry: Loaded): void {
    const spec = readTlsFiles(entry.config)
    const before = entry.handle
    try {
      entry.handle = this.addon.tlsCredentials(spec)
    } catch (cause) {
      throw new UsageError(describe(cause), { cause })
    }
    if (before !== 0) this.addon.dropTlsCredentials(before)
  }
}
