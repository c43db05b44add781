/**
 * The NBD listeners of a daemon: those of its masters' volumes, one for each address, and those of exported copies.
 *
 * Guarantees: addresses are bound before any device is opened (so that a port in use is found with nothing changed),
 * yet nobody is answered before serve(); every accepted connection gets to one server or is closed; the files of unix
 * sockets are gone after cleanUp(), which is synchronous.
 */
import { closeSync, readFileSync, rmSync } from 'node:fs'

import type { NbdConfig } from '../core/config-types.js'
import { describe, OperationError, UsageError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { formatAddress, isLoopback, type ListenAddress } from '../core/units.js'
import type { Addon, AddonEvent, TakenClient } from '../native/binding.js'
import type { EventSource } from '../native/events.js'
import { ConnectionLimit } from '../nbd/connection-limit.js'
import type { ExportSource, NbdExport } from '../nbd/exports.js'
import { NbdServer } from '../nbd/server.js'
import type { ExportedVolume } from './roles.js'
import { TlsStore } from './tls-store.js'

type AcceptedEvent = Extract<AddonEvent, { type: 'accepted' }>

export interface OpenListener {
  /** The port is the real one. */
  address: ListenAddress
  close(): void
}

/** A socket that listens; the address as it was asked for. */
export interface ListenerSocket {
  address: string
  fd: number
}

export interface NbdFrontOptions {
  addon: Addon
  events: EventSource
  log: Logger
  connectionsMax: number
}

/** Connections that may wait for serve(). */
const waitingMax = 256

export class NbdFront {
  private readonly exported = new Map<string, ExportedVolume>()
  private readonly servers = new Map<NbdServer, { exports: ExportSource; address: string }>()
  /** Of a predecessor, by address, until they are listened on. */
  private readonly inherited = new Map<string, number>()
  private readonly unixPaths = new Set<string>()
  private readonly waiting: AcceptedEvent[] = []
  private readonly tls: TlsStore
  private readonly limit: ConnectionLimit
  private serving = false

  constructor(private readonly options: NbdFrontOptions) {
    this.tls = new TlsStore(options.addon)
    this.limit = new ConnectionLimit(options.connectionsMax, handle => this.offers(handle))
    options.events.subscribe(event => {
      if (event.type === 'accepted') this.accepted(event)
      if (event.type === 'disconnected') this.limit.left(event.connection)
    })
  }

  /** A listener for all exports of the masters, or for some volumes alone. */
  listen(address: ListenAddress, config: NbdConfig, only?: ExportedVolume | ExportedVolume[]): OpenListener {
    const forced = config.tls?.required === true
    if (address.kind === 'tcp' && !config.insecure && !forced && !isLoopback(address.host)) {
      throw new UsageError(
        `listen on ${formatAddress(address)}: plain NBD would be open to other hosts; use unix:PATH or 127.0.0.1, TLS (--tls require), or [nbd] insecure = true`,
      )
    }
    const alone = only === undefined ? undefined : new Map([only].flat().map(volume => [volume.name, volume]))
    const exports = mapSource(alone ?? this.exported)
    const tls = config.tls === undefined ? {} : { tls: this.tls.open(config.tls) }
    const { addon: engine, log } = this.options
    const server = new NbdServer({ engine, exports, log, limit: this.limit, ...tls })
    const text = formatAddress(address)
    const fd = this.inherited.get(text)
    this.inherited.delete(text)
    const native = address.kind === 'unix' ? { ...address, mode: config.unixMode, ...groupOf(config) } : address
    const { port } = server.listen(fd === undefined ? native : { ...native, inherited: fd })
    this.servers.set(server, { exports, address: text })
    if (address.kind === 'unix') this.unixPaths.add(address.path)
    return {
      address: address.kind === 'unix' ? address : { ...address, port },
      close: () => this.closeServer(server, address),
    }
  }

  /** New connections get what the TLS files say now. Throws UsageError. */
  readTlsAgain(): void {
    this.tls.readAgain()
  }

  add(exported: ExportedVolume): void {
    this.exported.set(exported.name, exported)
  }

  remove(name: string): void {
    this.exported.delete(name)
  }

  get isServing(): boolean {
    return this.serving
  }

  serve(): void {
    this.serving = true
    for (const event of this.waiting.splice(0)) this.accepted(event)
  }

  /** Sockets that listen() takes instead of new ones. */
  inherit(listeners: readonly ListenerSocket[]): void {
    for (const { address, fd } of listeners) this.inherited.set(address, fd)
  }

  /** A client that was in transmission already. */
  adopt(client: TakenClient, volume: number): number {
    const connection = this.options.addon.adoptClient(volume, client)
    this.limit.entered(connection, () => undefined)
    this.limit.adopted(connection, volume)
    return connection
  }

  /** Connections that negotiate, or are about to. */
  get negotiating(): number {
    const counts = [...this.servers.keys()].map(({ negotiating }) => negotiating)
    return counts.reduce((sum, count) => sum + count, this.options.addon.waitingConnections())
  }

  /** As close(), but the sockets go on listening, and keep their files: the caller's from now on. */
  giveUp(): ListenerSocket[] {
    const sockets = [...this.servers].flatMap(([server, { address }]) => server.giveUp().map(fd => ({ address, fd })))
    this.unixPaths.clear()
    this.close()
    return sockets
  }

  close(): void {
    for (const server of this.servers.keys()) server.close()
    this.servers.clear()
    for (const event of this.waiting.splice(0)) this.refuse(event)
  }

  /** Synchronous: for the very end of the process. */
  cleanUp(): void {
    for (const path of this.unixPaths) rmSync(path, { force: true })
    this.unixPaths.clear()
  }

  private closeServer(server: NbdServer, address: ListenAddress): void {
    if (!this.servers.delete(server)) return
    server.close()
    if (address.kind !== 'unix') return
    rmSync(address.path, { force: true })
    this.unixPaths.delete(address.path)
  }

  private accepted(event: AcceptedEvent): void {
    if (!this.serving && this.waiting.length < waitingMax) {
      this.waiting.push(event)
      return
    }
    for (const server of this.servers.keys()) {
      if (this.serving && server.accepted(event)) return
    }
    this.refuse(event)
  }

  private offers(volume: number): boolean {
    return [...this.servers.values()].some(({ exports }) => exports.list().some(other => other.volume === volume))
  }

  private refuse(event: AcceptedEvent): void {
    try {
      closeSync(event.fd)
      this.options.addon.release(event.connection)
    } catch (error) {
      this.options.log.warn(`${event.peer}: closing its connection: ${describe(error)}`)
    }
  }
}

function mapSource(exported: ReadonlyMap<string, ExportedVolume>): ExportSource {
  return {
    lookup: name => toNbd(exported.get(name)),
    list: () => [...exported.values()].map(volume => ({ ...volume, description: '' })),
  }
}

const toNbd = (volume: ExportedVolume | undefined): NbdExport | undefined => volume && { ...volume, description: '' }

function groupOf(config: NbdConfig): { groupId?: number } {
  return config.unixGroup === undefined ? {} : { groupId: groupIdOf(config.unixGroup) }
}

/** node has no getgrnam(3). */
export function groupIdOf(group: string, groupFile = '/etc/group'): number {
  if (/^\d{1,9}$/.test(group)) return Number(group)
  for (const line of readFileSync(groupFile, 'utf8').split('\n')) {
    const [name, , id] = line.split(':')
    if (name === group && id !== undefined) return Number(id)
  }
  throw new OperationError('NO_GROUP', `unix socket: there is no group '${group}' on this host`)
}
