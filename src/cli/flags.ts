/**
 * The flags of `master` and `standby` as the tree that understudy.toml would give, so that one reader checks both.
 * Messages name the flag instead of the key.
 */
import type { KeyPath } from '../core/toml-lines.js'
import type { TlsFlags } from './options.js'

type Tree = Record<string, unknown>

export interface MasterFlags extends TlsFlags {
  state: string
  device: string
  export: string
  listen: string[]
  standby?: string
  durability?: string
  onStandbyLoss?: string
  transport?: string
  metrics?: string
  onEvent?: string
  readOnly?: boolean
  direct?: boolean
  unixMode?: string
  unixGroup?: string
  logSize?: string
  logFile?: string
  peerTimeout?: string
  lease?: string
  replicate?: string[]
  exclude?: string[]
  excludeFiles?: string[]
  onlyFiles?: string[]
  filterFallback?: string
  drainTimeout?: string
  packetSize?: string
  maxLag?: string
  onMaxLag?: string
  bandwidth?: string
  compress?: string
  resyncRate?: string
  scrubEvery?: string
  insecure?: boolean
  maxConnections?: string
}

export interface StandbyFlags extends TlsFlags {
  state: string
  store: string
  listen: string
  allow: string[]
  transport?: string
  device?: string[]
  metrics?: string
  onEvent?: string
  stagingSize?: string
  cacheSize?: string
  history?: string
  drainTimeout?: string
}

export function masterTree(flags: MasterFlags): Tree {
  const volume = {
    export: flags.export,
    device: flags.device,
    read_only: flags.readOnly,
    direct: flags.direct,
    replicate: flags.replicate,
    exclude: flags.exclude,
    exclude_files: flags.excludeFiles,
    only_files: flags.onlyFiles,
    filter_fallback: flags.filterFallback,
  }
  const group = {
    standby: flags.standby,
    durability: flags.durability,
    on_standby_loss: flags.onStandbyLoss,
    transport: flags.transport,
    log_size: flags.logSize,
    log_file: flags.logFile,
    peer_timeout: flags.peerTimeout,
    lease: flags.lease,
    drain_timeout: flags.drainTimeout,
    packet_size: flags.packetSize,
    max_lag: flags.maxLag,
    on_max_lag: flags.onMaxLag,
    bandwidth: flags.bandwidth,
    compress: flags.compress,
    resync_rate: flags.resyncRate,
    scrub_every: flags.scrubEvery,
    volume: [given(volume)],
  }
  const nbd = {
    ...{ listen: flags.listen, unix_mode: flags.unixMode, unix_group: flags.unixGroup, insecure: flags.insecure },
    max_connections: flags.maxConnections,
    ...tlsTree(flags),
  }
  return given({
    state: flags.state,
    metrics: metricsTree(flags.metrics),
    on_event: flags.onEvent,
    nbd: given(nbd),
    group: [given(group)],
  })
}

export function standbyTree(flags: StandbyFlags): Tree {
  const standby = {
    store: flags.store,
    listen: flags.listen,
    allow: flags.allow,
    transport: flags.transport,
    devices: flags.device === undefined ? undefined : devicesTree(flags.device),
    staging_size: flags.stagingSize,
    cache_size: flags.cacheSize,
    history: flags.history,
    drain_timeout: flags.drainTimeout,
  }
  const nbd = given(tlsTree(flags))
  return given({
    state: flags.state,
    metrics: metricsTree(flags.metrics),
    on_event: flags.onEvent,
    nbd,
    standby: given(standby),
  })
}

function tlsTree(flags: TlsFlags): Tree {
  return {
    ...{ tls: flags.tls, tls_certificates: flags.tlsCertificates },
    ...{ tls_verify_peer: flags.tlsVerifyPeer, tls_psk: flags.tlsPsk },
  }
}

/** Where a key of the tree came from, for messages. */
export function flagOf(path: KeyPath): string {
  const keys = path.filter(part => typeof part === 'string')
  if (keys[0] === 'metrics') return '--metrics'
  if (keys[0] === 'standby' && keys[1] === 'devices') return `--device ${keys[2] ?? ''}`.trimEnd()
  const last = keys.at(-1) ?? ''
  return `--${last === 'name' ? 'export' : last.replaceAll('_', '-')}`
}

const metricsTree = (listen: string | undefined): Tree | undefined => (listen === undefined ? undefined : { listen })

/** "VOLUME=PATH", as parsed by the flag itself. */
function devicesTree(devices: string[]): Tree {
  return Object.fromEntries(devices.map(text => [text.slice(0, text.indexOf('=')), text.slice(text.indexOf('=') + 1)]))
}

function given(tree: Tree): Tree {
  return Object.fromEntries(Object.entries(tree).filter(([, value]) => value !== undefined))
}
