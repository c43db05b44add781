/**
 * understudy.toml, and the flags of `master` and `standby`, into one checked Config.
 *
 * Guarantees: an unknown key, a wrong type, a bad value or a contradiction is refused with one line that names file,
 * line and key; nothing is opened or written here. Does not look at devices: whoever opens them says what is wrong.
 */
import { readFileSync, realpathSync } from 'node:fs'
import { dirname, isAbsolute, resolve } from 'node:path'
import { parse, TomlError } from 'smol-toml'

import {
  type Config,
  defaults,
  durabilities,
  type FileRulesConfig,
  filterFallbacks,
  type GroupConfig,
  type NbdConfig,
  type StandbyConfig,
  type TlsConfig,
  type TlsMode,
  tlsModes,
  type Transport,
  standbyTransports,
  transports,
  type VolumeConfig,
} from './config-types.js'
import { parseHistory, readPolicies } from './config-policies.js'
import { type ConfigSource, Problems, TableReader } from './config-reader.js'
import { ConfigError, describe, UsageError } from './errors.js'
import { parseLease } from './lease.js'
import { type KeyPath, lineOfKey } from './toml-lines.js'
import {
  formatAddress,
  formatSize,
  isLoopback,
  parseAddress,
  parseDuration,
  parseHostPort,
  parseId,
  parsePartition,
  parsePeer,
  parseRange,
  parseSize,
} from './units.js'

export interface ReadConfig {
  config: Config
  problems: ConfigError[]
}

const configBytesMax = 1 << 20

/** Reads and checks a file; throws the first problem. */
export function loadConfig(file: string): Config {
  const { config, problems } = readConfigFile(file)
  const [first] = problems
  if (first !== undefined) throw first
  return config
}

/** For check-config: all problems at once. Throws only when the file cannot be read or is not TOML. */
export function readConfigFile(file: string): ReadConfig {
  return readConfigText(readText(file), file)
}

export function readConfigText(text: string, file: string): ReadConfig {
  const values = parseToml(text, file)
  return read(values, tomlSource(text, file), dirname(resolve(file)), file)
}

/** From the tree that master-flags.ts or standby-flags.ts make of flags; `keyToFlag` names the flag in messages. */
export function configFromFlags(values: Record<string, unknown>, nameOf: (path: KeyPath) => string): Config {
  const { config, problems } = read(values, { nameOf, locate: () => ({}) }, process.cwd())
  const [first] = problems
  if (first !== undefined) throw first
  return config
}

function readText(file: string): string {
  try {
    const text = readFileSync(file)
    if (text.length > configBytesMax)
      throw new ConfigError(`the file is larger than ${formatSize(configBytesMax)}`, { file })
    return text.toString('utf8')
  } catch (error) {
    if (error instanceof ConfigError) throw error
    throw new ConfigError(`cannot read the configuration: ${describe(error)}`, { file, cause: error })
  }
}

function parseToml(text: string, file: string): Record<string, unknown> {
  try {
    return parse(text)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const what = (error.message.split('\n')[0] ?? '').replace(/^Invalid TOML document: /, '')
    throw new ConfigError(`not valid TOML: ${what}`, { file, line: error.line, cause: error })
  }
}

function tomlSource(text: string, file: string): ConfigSource {
  return {
    nameOf: path => `key '${path.filter(part => typeof part === 'string').join('.')}'`,
    locate: path => {
      const line = lineOfKey(text, path)
      return line === undefined ? { file } : { file, line }
    },
  }
}

function read(values: Record<string, unknown>, source: ConfigSource, base: string, file?: string): ReadConfig {
  const problems = new Problems(source)
  const root = new TableReader(values, [], problems)
  const path = (text: string): string => absolutePath(text, base)
  const state = root.requiredString('state', 'state = "/var/lib/understudy"')
  const metrics = root.table('metrics')
  const metricsListen = metrics?.parsed('listen', parseHostPort)
  metrics?.end()
  const onEvent = root.string('on_event')
  const nbd = readNbd(root.table('nbd') ?? new TableReader({}, ['nbd'], problems), path)
  const standbyTable = root.table('standby')
  const standby = standbyTable === undefined ? undefined : readStandby(standbyTable, path)
  const groups = root.tables('group').map(table => ({ table, group: readGroup(table, path) }))
  root.end()
  checkWhole({ nbd, standby, groups }, problems)
  const config: Config = { state: state === '' ? '' : path(state), nbd, groups: groups.map(({ group }) => group) }
  if (metricsListen !== undefined) config.metrics = metricsListen
  if (onEvent !== undefined) config.onEvent = onEvent
  if (standby !== undefined) config.standby = standby
  if (file !== undefined) config.file = resolve(file)
  return { config, problems: problems.list }
}

/** A text says why the settings cannot be meant; undefined: no TLS. */
export function tlsConfig(mode: TlsMode, given: Omit<TlsConfig, 'required'>): TlsConfig | string | undefined {
  if (mode === 'off') {
    if (given.certificates === undefined && given.psk === undefined && !given.verifyPeer) return undefined
    return "TLS is off, so the other TLS settings would do nothing; use 'on' or 'require'"
  }
  if (given.certificates === undefined && given.psk === undefined)
    return `'${mode}' needs certificates (--tls-certificates, tls_certificates) or pre-shared keys (--tls-psk, tls_psk)`
  if (given.verifyPeer && given.certificates === undefined)
    return "'verify peer' is about client certificates, and needs certificates (--tls-certificates, tls_certificates)"
  return { required: mode === 'require', ...given }
}

function readTls(table: TableReader, path: (text: string) => string): TlsConfig | undefined {
  const certificates = table.string('tls_certificates')
  const psk = table.string('tls_psk')
  const tls = tlsConfig(table.oneOf('tls', tlsModes, 'off'), {
    verifyPeer: table.boolean('tls_verify_peer', false),
    ...(certificates === undefined ? {} : { certificates: path(certificates) }),
    ...(psk === undefined ? {} : { psk: path(psk) }),
  })
  return typeof tls === 'string' ? table.fail('tls', tls) : tls
}

function readNbd(table: TableReader, path: (text: string) => string): NbdConfig {
  const insecure = table.boolean('insecure', false)
  const tls = readTls(table, path)
  const listen = table.list('listen', text => {
    const address = parseAddress(text)
    if (address.kind === 'unix') return { ...address, path: path(address.path) }
    if (!insecure && tls?.required !== true && !isLoopback(address.host)) {
      throw new UsageError(
        `'${text}' would serve unencrypted NBD to other hosts; use unix:PATH or 127.0.0.1, tls = "require" (--tls require), or say insecure = true (--insecure)`,
      )
    }
    return address
  })
  const seen = new Set<string>()
  for (const text of listen.map(formatAddress)) {
    if (seen.has(text)) table.fail('listen', `'${text}' is listed twice`)
    seen.add(text)
  }
  const nbd: NbdConfig = {
    listen,
    insecure,
    unixMode: table.parsed('unix_mode', parseMode) ?? defaults.unixMode,
    connectionsMax: table.parsed('max_connections', parseConnections, true) ?? defaults.connectionsMax,
  }
  if (tls !== undefined) nbd.tls = tls
  const unixGroup = table.string('unix_group')
  if (unixGroup !== undefined) nbd.unixGroup = unixGroup
  table.end()
  return nbd
}

function readStandby(table: TableReader, path: (text: string) => string): StandbyConfig {
  const store = table.requiredString('store', 'store = "/var/lib/understudy/store"')
  if (!table.has('listen')) table.fail('listen', 'it is missing; for example listen = "0.0.0.0:7400"')
  if (!table.has('allow'))
    table.fail('allow', "it is missing; it lists the ids of the masters, as 'understudy identity' prints them there")
  const standby: StandbyConfig = {
    store: store === '' ? '' : path(store),
    listen: table.parsed('listen', parseHostPort) ?? { host: '127.0.0.1', port: 0 },
    transport: table.oneOf('transport', standbyTransports, defaults.standbyTransport),
    allow: [...new Set(table.list('allow', parseId))],
    devices: new Map(),
    stagingBytes: table.parsed('staging_size', parseStagingSize, true) ?? 0,
    cacheBytes: table.parsed('cache_size', parseSize, true) ?? 0,
    drainTimeoutMs: table.parsed('drain_timeout', parseDuration, true) ?? defaults.drainTimeoutMs,
  }
  const history = table.parsed('history', parseHistory)
  if (history !== undefined) standby.history = history
  const devices = table.table('devices')
  for (const name of devices?.names() ?? []) {
    const what = nameProblem(name)
    if (what !== undefined) devices?.fail(name, what)
    const device = devices?.string(name)
    if (device !== undefined) standby.devices.set(name, path(device))
  }
  table.end()
  return standby
}

function readGroup(table: TableReader, path: (text: string) => string): GroupConfig {
  const volumes = table.tables('volume').map(volume => readVolume(volume, path))
  if (volumes.length === 0)
    table.fail('volume', 'the group has no volume; add a [[group.volume]] with export and device')
  const only = volumes.length === 1 ? volumes[0]?.name : undefined
  if (only === undefined && !table.has('name'))
    table.fail('name', 'it is missing; a group of several volumes needs a name')
  const name = table.string('name') ?? only ?? ''
  const what = name === '' ? undefined : nameProblem(name)
  if (what !== undefined) table.fail('name', what)
  const group: GroupConfig = {
    name,
    volumes,
    durability: table.oneOf('durability', durabilities, defaults.durability),
    ...readLogSizes(table),
    peerTimeoutMs: table.parsed('peer_timeout', parsePeerTimeout, true) ?? defaults.peerTimeoutMs,
    transport: readTransport(table),
    ...readPolicies(table),
    drainTimeoutMs: table.parsed('drain_timeout', parseDuration, true) ?? defaults.drainTimeoutMs,
  }
  const standby = table.parsed('standby', parsePeer)
  if (standby !== undefined) group.standby = standby
  const leaseMs = table.parsed('lease', parseLease, true)
  if (leaseMs !== undefined) group.leaseMs = leaseMs
  if (leaseMs !== undefined && standby === undefined && !table.has('standby'))
    table.fail('lease', 'there is no standby (--standby, standby) that could grant it')
  const packetBytesMax = table.parsed('packet_size', parsePacketSize, true)
  if (packetBytesMax !== undefined) group.packetBytesMax = packetBytesMax
  const scrubEveryMs = table.parsed('scrub_every', parseScrubEvery)
  if (scrubEveryMs !== undefined) group.scrubEveryMs = scrubEveryMs
  table.end()
  return group
}

/** With a file, log_size is the size of the file, and what is in memory is what the link needs to be busy. */
function readLogSizes(table: TableReader): Pick<GroupConfig, 'logBytes' | 'logFile'> {
  const path = table.string('log_file')
  if (path === undefined) return { logBytes: table.parsed('log_size', parseLogSize, true) ?? defaults.logBytes }
  if (!isAbsolute(path)) table.fail('log_file', `'${path}' is not an absolute path, like /var/lib/understudy/log1`)
  if (!table.has('log_size'))
    table.fail('log_size', 'it is missing; with a log file it says how large the file may become, for example 10GiB')
  const bytes = table.parsed('log_size', parseLogFileSize, true) ?? defaults.logBytesMin
  return { logBytes: defaults.logBytesMin, logFile: { path: resolve(path), bytes } }
}

function readTransport(table: TableReader): Transport {
  return table.oneOf('transport', transports, defaults.transport)
}

function readVolume(table: TableReader, path: (text: string) => string): VolumeConfig {
  const name = table.requiredString('export', 'export = "disk1"')
  const what = name === '' ? undefined : nameProblem(name)
  if (what !== undefined) table.fail('export', what)
  const device = table.requiredString('device', 'device = "/dev/vg0/disk1"')
  const volume: VolumeConfig = {
    name,
    device: device === '' ? '' : path(device),
    readOnly: table.boolean('read_only', false),
    direct: table.boolean('direct', false),
    partitions: [...new Set(table.list('replicate', parsePartition))].sort((a, b) => a - b),
    exclude: table.list('exclude', parseRange),
  }
  const files = readFileRules(table)
  if (files !== undefined) volume.files = files
  table.end()
  return volume
}

function readFileRules(table: TableReader): FileRulesConfig | undefined {
  const files: FileRulesConfig = {
    exclude: table.list('exclude_files', text => text),
    only: table.list('only_files', text => text),
    fallback: table.oneOf('filter_fallback', filterFallbacks, 'refuse'),
  }
  if (files.exclude.length + files.only.length > 0) return files
  if (table.has('filter_fallback'))
    table.fail('filter_fallback', 'it is about rules for files (exclude_files, only_files), and there are none')
  return undefined
}

interface Whole {
  nbd: NbdConfig
  standby: StandbyConfig | undefined
  groups: { table: TableReader; group: GroupConfig }[]
}

/** What no single key is to blame for. */
function checkWhole({ nbd, standby, groups }: Whole, problems: Problems): void {
  if (groups.length === 0 && standby === undefined) {
    problems.addGeneral('nothing to do: there is neither a [[group]] (master) nor a [standby]')
  }
  if (groups.length > 0 && nbd.listen.length === 0 && !problems.has(['nbd', 'listen'])) {
    problems.add(
      ['nbd', 'listen'],
      'it is missing, so nobody could reach the exports; for example listen = ["unix:/run/understudy/nbd.sock"]',
    )
  }
  const names = new Map<string, string>()
  const exports = new Map<string, string>()
  const devices = new Map(
    [...(standby?.devices ?? [])].map(([name, path]) => [realPath(path), `the standby's volume '${name}'`]),
  )
  if (standby !== undefined && devices.size < standby.devices.size)
    problems.add(['standby', 'devices'], 'two volumes have the same device')
  const logFiles = new Set<string>()
  for (const [index, { group, table }] of groups.entries()) {
    const logFile = group.logFile && realPath(group.logFile.path)
    if (logFile !== undefined && logFiles.has(logFile))
      table.fail('log_file', `'${logFile}' is also the log file of another group`)
    if (logFile !== undefined) logFiles.add(logFile)
    if (group.name !== '' && names.has(group.name))
      table.fail('name', `there are two groups with the name '${group.name}'`)
    names.set(group.name, group.name)
    group.volumes.forEach((volume, position) => {
      const path = ['group', index, 'volume', position]
      if (volume.name !== '' && exports.has(volume.name)) {
        problems.add(
          [...path, 'export'],
          `there are two volumes with the name '${volume.name}'; a name is used once in a daemon`,
        )
      }
      exports.set(volume.name, group.name)
      const device = volume.device === '' ? '' : realPath(volume.device)
      const other = device === '' ? undefined : devices.get(device)
      if (other !== undefined) problems.add([...path, 'device'], `'${volume.device}' is also the device of ${other}`)
      if (device !== '') devices.set(device, `volume '${volume.name}'`)
    })
  }
}

/** Symbolic links (/dev/disk/by-id) followed where the file is there. */
function realPath(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

function absolutePath(text: string, base: string): string {
  return resolve(base, text)
}

const nameBytesMax = 200

/** A volume's name becomes a directory's name on the standby. */
function nameProblem(name: string): string | undefined {
  if (Buffer.byteLength(name) > nameBytesMax) return `the name is longer than ${nameBytesMax} bytes`
  if (name.startsWith('.')) return `'${name}' begins with a dot`
  // eslint-disable-next-line no-control-regex
  if (/[/\\\x00-\x1f\x7f]/.test(name)) return `'${name}' contains a slash or a control character`
  return undefined
}

function parseMode(text: string): number {
  if (!/^0?[0-7]{3}$/.test(text)) throw new UsageError(`'${text}' is not a file mode; write it like "0600" or "0660"`)
  return parseInt(text, 8)
}

function parseConnections(text: string): number {
  const count = /^\d{1,4}$/.test(text) ? Number(text) : 0
  if (count < 1 || count > 4096) throw new UsageError(`'${text}' is not a number of connections; 1 to 4096`)
  return count
}

function parseLogSize(text: string): number {
  const bytes = parseSize(text)
  if (bytes < defaults.logBytesMin) {
    throw new UsageError(`${text} is too small: the replication log needs at least ${formatSize(defaults.logBytesMin)}`)
  }
  if (bytes > 64 * 2 ** 30)
    throw new UsageError(`${text} is too large: the replication log lies in memory; at most 64 GiB`)
  return bytes
}

function parseLogFileSize(text: string): number {
  const bytes = parseSize(text)
  if (bytes < defaults.logBytesMin)
    throw new UsageError(`${text} is too small: a log file needs at least ${formatSize(defaults.logBytesMin)}`)
  if (bytes > 16 * 2 ** 40) throw new UsageError(`${text} is too large: a log file has at most 16 TiB`)
  return bytes
}

function parseStagingSize(text: string): number {
  const bytes = parseSize(text)
  if (bytes > 0 && bytes < defaults.stagingBytesMin) {
    throw new UsageError(
      `${text} is too small: staging needs at least ${formatSize(defaults.stagingBytesMin)}; 0 is no maximum`,
    )
  }
  return bytes
}

function parsePeerTimeout(text: string): number {
  const milliseconds = parseDuration(text)
  if (milliseconds < 500 || milliseconds > 3_600_000) throw new UsageError(`'${text}': it must be between 500ms and 1h`)
  return milliseconds
}

function parseScrubEvery(text: string): number {
  const milliseconds = parseDuration(text)
  if (milliseconds < 1_000) throw new UsageError(`'${text}': it must be at least 1s; for example 24h or 7d`)
  return milliseconds
}

function parsePacketSize(text: string): number {
  const bytes = parseSize(text)
  if (bytes < 1200 || bytes > 60_000)
    throw new UsageError(`'${text}': it must be between 1200 (QUIC's minimum) and 60000 bytes`)
  return bytes
}
