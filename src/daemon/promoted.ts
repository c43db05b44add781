/**
 * Volumes that this daemon took over as a standby: each is served where the operator said, from the promotion on and
 * again after a restart. The standby remembers the address; what cannot be bound is logged, and promoting it again
 * with another address mends it.
 */
import type { NbdConfig } from '../core/config-types.js'
import { describe } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { nbdUri, parseAddress } from '../core/units.js'
import type { NbdFront, OpenListener } from './nbd-front.js'
import type { ExportedVolume, StandbyRole } from './roles.js'

export class Promoted {
  /** By address, as typed. */
  private readonly open = new Map<string, { names: string; listener: OpenListener }>()

  constructor(
    private readonly front: NbdFront,
    private readonly nbd: NbdConfig,
    private readonly log: Logger,
  ) {}

  /** Brings what is served in line with what is promoted. Returns a line for each volume that is served now, or not. */
  serve(standby: StandbyRole): string[] {
    const wanted = new Map<string, ExportedVolume[]>()
    for (const { exported, listen } of standby.promoted()) {
      if (listen !== undefined) wanted.set(listen, [...(wanted.get(listen) ?? []), exported])
    }
    for (const [address, { listener }] of this.open) {
      if (wanted.has(address)) continue
      listener.close()
      this.open.delete(address)
    }
    const lines = [...wanted].flatMap(([address, volumes]) => this.serveAt(address, volumes))
    for (const line of lines) this.log.info(line)
    return lines
  }

  private serveAt(address: string, volumes: ExportedVolume[]): string[] {
    const names = volumes.map(volume => volume.name).join(', ')
    const before = this.open.get(address)
    if (before?.names === names) return []
    before?.listener.close()
    this.open.delete(address)
    try {
      const listener = this.front.listen(parseAddress(address), this.nbd, volumes)
      this.open.set(address, { names, listener })
      return volumes.map(({ name }) => `${name} is served at ${nbdUri(listener.address, name, this.nbd.tls?.required)}`)
    } catch (error) {
      return [`${names}: NOT served at ${address}: ${describe(error)}; promote it again with another --listen`]
    }
  }
}
