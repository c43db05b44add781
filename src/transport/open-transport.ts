/** The transport that a group's configuration asks for, to connect with. */
import type { GroupConfig } from '../core/config-types.js'
import type { Addon } from '../native/binding.js'
import type { EventSource } from '../native/events.js'
import { QuicTransport } from './quic.js'
import type { HostKey, Transport } from './transport.js'
import { WebTransportTransport } from './webtransport.js'

export interface OpeningDeps {
  addon: Addon
  events: EventSource
  identity: HostKey
}

export function openTransport(config: GroupConfig, deps: OpeningDeps): Transport {
  const Chosen = config.transport === 'webtransport' ? WebTransportTransport : QuicTransport
  return new Chosen({
    addon: deps.addon,
    events: deps.events,
    identity: deps.identity,
    idleTimeoutMs: config.peerTimeoutMs,
    bytesPerSecondMax: config.bandwidth,
    ...(config.packetBytesMax === undefined ? {} : { packetBytesMax: config.packetBytesMax }),
  })
}
