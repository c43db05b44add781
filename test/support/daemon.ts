/**
 * Real daemons for tests: `node dist/cli/main.js ...` on scratch directories, free ports and unix sockets.
 *
 * Guarantees: whatever a test starts here is gone when it ends, also after a failure (the runner kills the rest by
 * process group); a failing test prints the ends of its daemons' logs; every wait has a limit that names what it
 * waited for and what it saw instead.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync } from 'node:fs'
import { open, truncate, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { StatusDocument, VolumeStatus } from '../../src/core/status-types.js'
import { ControlClient } from '../../src/daemon/control-client.js'
import { loadIdentity } from '../../src/daemon/identity.js'
import { prepareStateDirectory } from '../../src/daemon/state-directory.js'
import { addon } from '../../src/native/binding.js'
import { nextLookMs, SLOWER } from './patience.js'

/** Who a process or a scratch folder belongs to: a test, or a program that ends what it began in the same way. */
export interface Owner {
  teardown(ending: () => unknown): void
  passing(): boolean
  comment(...text: unknown[]): void
}

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
export const MAIN = join(ROOT, 'dist/cli/main.js')

/** Of the pairs of all tests that do not choose one: quic, or webtransport (npm run test:webtransport). */
const TRANSPORT = process.env['UNDERSTUDY_TRANSPORT'] ?? 'quic'

/** For limits of waiting: a tunnel's bytes pass through JavaScript on both sides. */
export const PATIENCE = TRANSPORT === 'quic' ? 1 : 4

export { SLOWER }

const READY_LIMIT_MS = 20_000
const LOG_BYTES_MAX = 1 << 20

const alive = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of alive) child.kill('SIGKILL')
})

// ---- scratch ---------------------------------------------------------------------------------------------------------

export interface Scratch {
  folder: string
  path(name: string): string
}

const MEMORY_FOLDER = '/dev/shm'
const MEMORY_BYTES_MIN = 6 * 2 ** 30

/**
 * A folder of this test's own, short enough for unix sockets; removed at the end, unless UNDERSTUDY_KEEP
 * is set and the test failed. In memory where there is plenty, so that tests do not wait for each other's fdatasync; `onDisk` insists on a disk.
 */
export function scratch(t: Owner, options: { onDisk?: boolean } = {}): Scratch {
  const folder = mkdtempSync(join(options.onDisk !== true && hasMemoryFolder() ? MEMORY_FOLDER : tmpdir(), 'us-'))
  t.teardown(() => {
    if (t.passing() || process.env['UNDERSTUDY_KEEP'] === undefined) rmSync(folder, { recursive: true, force: true })
    else t.comment(`scratch files are kept in ${folder}`)
  })
  return { folder, path: name => join(folder, name) }
}

function hasMemoryFolder(): boolean {
  try {
    const { bavail, bsize } = statfsSync(MEMORY_FOLDER)
    return bavail * bsize >= MEMORY_BYTES_MIN
  } catch {
    return false
  }
}

/** A file that reads as zeroes and takes no space. */
export async function sparseFile(path: string, bytes: number): Promise<string> {
  await writeFile(path, '')
  await truncate(path, bytes)
  return path
}

/**
 * Below the range from which the kernel gives ports to outgoing connections: a free port from that range may be somebody
 * else's by the time a daemon listens there, or again when it is restarted.
 */
const PORTS: [number, number] = [12_000, 32_000]

export const freeUdpPort = (): Promise<number> => freePort(port => createSocket('udp4').bind(port, '127.0.0.1'))
export const freeTcpPort = (): Promise<number> => freePort(port => createServer().listen(port, '127.0.0.1'))

/**
 * Until this process ends the port is its own among all tests, also while nothing listens there: a daemon that is about
 * to start or restart finds it free. (An abstract socket of its number goes with the process.)
 */
async function freePort(listener: (port: number) => Server | Socket): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const port = randomInt(...PORTS)
    const reservation = createServer().listen(`\0understudy-test-port-${port}`).unref()
    if (!(await listens(reservation))) continue
    const socket = listener(port)
    const free = await listens(socket)
    await new Promise(resolve => socket.close(resolve))
    if (free) return port
    reservation.close()
  }
  throw new Error(`no free port between ${PORTS.join(' and ')}`)
}

const listens = (socket: Server | Socket): Promise<boolean> =>
  once(socket, 'listening').then(
    () => true,
    () => false,
  )

// ---- processes -------------------------------------------------------------------------------------------------------

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
}

/** A process under test and what it printed. */
export class Program {
  readonly ended: Promise<Ended>
  stdout = ''
  stderr = ''

  constructor(
    readonly name: string,
    readonly child: ChildProcess,
  ) {
    alive.add(child)
    const keep = (text: string, chunk: Buffer): string => (text + chunk.toString()).slice(-LOG_BYTES_MAX)
    child.stdout?.on('data', (chunk: Buffer) => (this.stdout = keep(this.stdout, chunk)))
    child.stderr?.on('data', (chunk: Buffer) => (this.stderr = keep(this.stderr, chunk)))
    this.ended = new Promise(resolve => {
      child.once('error', error => {
        this.stderr += `${error.message}\n`
        alive.delete(child)
        resolve({ code: 127, signal: null })
      })
      child.once('close', (code, signal) => {
        alive.delete(child)
        resolve({ code, signal })
      })
    })
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  get running(): boolean {
    return alive.has(this.child)
  }

  /** Waits until it has printed this on stdout. */
  async printed(pattern: RegExp, limitMs = READY_LIMIT_MS): Promise<void> {
    const left = this.ended.then(() => true)
    const end = performance.now() + limitMs * SLOWER
    while (!pattern.test(this.stdout)) {
      const over = await Promise.race([left, sleep(20).then(() => false)])
      if (over && !pattern.test(this.stdout))
        throw new Error(`${this.name} ended before it printed ${pattern}: ${this.tail()}`)
      if (performance.now() > end)
        throw new Error(`${this.name} did not print ${pattern} within ${limitMs} ms: ${this.tail()}`)
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal)
  }

  /** SIGTERM; resolves when it is gone. Longer than the limit: SIGKILL and an error. */
  async stop(limitMs = 40_000): Promise<Ended> {
    if (this.running) this.child.kill('SIGTERM')
    return this.gone(limitMs)
  }

  /** SIGKILL: a pulled plug for the process. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL')
    await this.ended
  }

  async gone(limitMs = 40_000): Promise<Ended> {
    let late = false
    const timer = setTimeout(() => {
      late = true
      this.child.kill('SIGKILL')
    }, limitMs * SLOWER)
    const ended = await this.ended
    clearTimeout(timer)
    if (late) throw new Error(`${this.name} was not gone within ${limitMs} ms: ${this.tail()}`)
    return ended
  }

  tail(lines = 30): string {
    const last = (text: string): string => text.trimEnd().split('\n').slice(-lines).join('\n')
    return `\n--- ${this.name} stdout\n${last(this.stdout)}\n--- ${this.name} stderr\n${last(this.stderr)}`
  }
}

/** Starts a program that the end of the test ends; its log is told when the test failed. */
export function launch(
  t: Owner,
  name: string,
  command: string,
  args: string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string } = {},
): Program {
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    cwd: options.cwd,
  })
  const program = new Program(name, child)
  t.teardown(async () => {
    if (program.running) await program.kill()
    if (!t.passing()) process.stderr.write(`${program.tail(20)}\n`)
  })
  return program
}

/** `understudy ARGS`, still running. */
export const understudy = (t: Owner, name: string, args: string[], env: NodeJS.ProcessEnv = {}): Program =>
  launch(t, name, process.execPath, [MAIN, ...args], { env: underSanitizer(env) })

/** `test/run --sanitize` has a daemon run with the sanitizer's build of the addon; its runtime comes first. */
export function underSanitizer(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const sanitizer = JSON.parse(process.env['UNDERSTUDY_SANITIZED'] ?? '{}') as NodeJS.ProcessEnv
  const preloaded = [sanitizer['LD_PRELOAD'], env['LD_PRELOAD']].filter(path => path !== undefined)
  return { ...sanitizer, ...env, ...(preloaded.length > 0 && { LD_PRELOAD: preloaded.join(':') }) }
}

export interface Output extends Ended {
  stdout: string
  stderr: string
}

/** Runs a program to its end. Never throws for its exit code. */
export function execute(
  command: string,
  args: string[],
  options: { limitMs?: number; env?: NodeJS.ProcessEnv; cwd?: string } = {},
): Promise<Output> {
  return new Promise(resolve => {
    const child = execFile(
      command,
      args,
      {
        timeout: (options.limitMs ?? 60_000) * SLOWER,
        killSignal: 'SIGKILL',
        maxBuffer: 64 << 20,
        // Debian's own python3 has the nbd module; another one may come first in the PATH.
        env: {
          ...process.env,
          PATH: `/usr/bin:/bin:/usr/sbin:/sbin:${process.env['PATH'] ?? ''}`,
          LC_ALL: 'C',
          ...options.env,
        },
        cwd: options.cwd,
      },
      (error, stdout, stderr) => {
        alive.delete(child)
        const failed = error !== null && child.exitCode === null && child.signalCode === null
        resolve({
          code: failed ? 127 : child.exitCode,
          signal: child.signalCode,
          stdout,
          stderr: failed ? `${stderr}${error.message}\n` : stderr,
        })
      },
    )
    alive.add(child)
    child.stdin?.end()
  })
}

/** As execute(), but a failure is thrown with what was printed. Returns stdout. */
export async function succeed(
  command: string,
  args: string[],
  options: { limitMs?: number; env?: NodeJS.ProcessEnv; cwd?: string } = {},
): Promise<string> {
  const output = await execute(command, args, options)
  if (output.code !== 0) {
    const ending = output.code === null ? `ended by ${output.signal}` : `exit code ${output.code}`
    throw new Error(
      `${command} ${args.join(' ')}: ${ending}\n${output.stdout.slice(-4000)}${output.stderr.slice(-4000)}`,
    )
  }
  return output.stdout
}

/** `understudy ARGS` to its end. */
export const command = (args: string[], options: { limitMs?: number; env?: NodeJS.ProcessEnv } = {}): Promise<Output> =>
  execute(process.execPath, [MAIN, ...args], options)

/** What `understudy identity --state STATE` makes and prints, without a process for it. */
export function identityOf(state: string): string {
  prepareStateDirectory(state)
  return loadIdentity(state, addon()).id
}

// ---- daemons ---------------------------------------------------------------------------------------------------------

/** A daemon with a state directory; restart() starts it again with the same command line. */
export class Daemon {
  program!: Program

  constructor(
    private readonly t: Owner,
    readonly name: string,
    readonly state: string,
    private readonly args: () => string[],
    private readonly env?: NodeJS.ProcessEnv,
  ) {}

  async start(): Promise<this> {
    this.program = understudy(this.t, this.name, this.args(), this.env)
    await this.program.printed(/^understudy: ready/m)
    return this
  }

  stop(limitMs?: number): Promise<Ended> {
    return this.program.stop(limitMs)
  }

  kill(): Promise<void> {
    return this.program.kill()
  }

  async restart(): Promise<void> {
    if (this.program.running) throw new Error(`restart: ${this.name} still runs`)
    await this.start()
  }

  /** What `status --json` prints, straight from the control socket: a process for each look would be the load itself. */
  status(): Promise<StatusDocument> {
    return new ControlClient(this.state).status()
  }

  async volume(name: string): Promise<VolumeStatus> {
    const { volumes } = await this.status()
    const volume = volumes.find(candidate => candidate.name === name)
    if (volume === undefined)
      throw new Error(`${this.name}: no volume '${name}' in its status; it has: ${volumes.map(v => v.name).join(', ')}`)
    return volume
  }

  /** Waits until the volume's status fulfils the condition; the error shows the last one seen. */
  async until(
    name: string,
    what: string,
    condition: (volume: VolumeStatus) => boolean,
    limitMs = 20_000,
  ): Promise<VolumeStatus> {
    const began = performance.now()
    const end = began + limitMs * SLOWER
    let seen: unknown
    for (;;) {
      try {
        const volume = await this.volume(name)
        if (condition(volume)) return volume
        seen = volume
      } catch (error) {
        seen = error instanceof Error ? error.message : error
      }
      if (performance.now() > end) {
        throw new Error(
          `${this.name}: ${name}: ${what}: not within ${limitMs} ms; last seen: ${JSON.stringify(seen)}${this.program.tail()}`,
        )
      }
      await sleep(nextLookMs(performance.now() - began))
    }
  }

  command(args: string[], options: { limitMs?: number } = {}): Promise<Output> {
    return command([...args, '--state', this.state], options)
  }
}

/** SIGSTOP; resolves when every thread stands still. */
export async function freeze({ program }: { program: Program }): Promise<void> {
  program.signal('SIGSTOP')
  const runs = (thread: string): boolean => {
    try {
      return !/\) [tT] /.test(readFileSync(`/proc/${program.pid}/task/${thread}/stat`, 'latin1'))
    } catch {
      return false // it has just ended
    }
  }
  while (readdirSync(`/proc/${program.pid}/task`).some(runs)) await sleep(5)
}

export interface PairOptions {
  volume?: string
  sizeBytes?: number
  /** An existing device instead of a new sparse file. */
  device?: string
  master?: string[]
  standby?: string[]
  /** Scratch files on a disk, not in memory. */
  onDisk?: boolean
  /** Given the standby's port: the one the master is to connect to, with something in between. */
  relay?: (standbyPort: number) => Promise<number>
  /** Do not start anything yet. */
  idle?: boolean
  /** Do not wait until the pair is in sync. */
  unsynchronized?: boolean
  masterEnv?: NodeJS.ProcessEnv
  standbyEnv?: NodeJS.ProcessEnv
}

export interface Pair {
  scratch: Scratch
  volume: string
  device: string
  image: string
  /** Of the NBD export: the unix socket and its URI. */
  socket: string
  uri: string
  master: Daemon
  standby: Daemon
  masterId: string
  standbyId: string
  standbyAddress: string
  metrics: { master: number; standby: number }
}

/** A master and a standby of one volume, running and in sync. */
export async function startPair(t: Owner, options: PairOptions = {}): Promise<Pair> {
  const files = scratch(t, { onDisk: options.onDisk ?? false })
  const volume = options.volume ?? 'disk1'
  const [masterState, standbyState] = [files.path('m'), files.path('s')]
  const [masterId, standbyId] = [identityOf(masterState), identityOf(standbyState)]
  const [port, masterMetrics, standbyMetrics] = await Promise.all([freeUdpPort(), freeTcpPort(), freeTcpPort()])
  const device = options.device ?? (await sparseFile(files.path('disk.img'), options.sizeBytes ?? 64 << 20))
  const standbyAddress = `127.0.0.1:${port}`
  const reachedAt = `127.0.0.1:${(await options.relay?.(port)) ?? port}`
  const socket = files.path('nbd.sock')
  const masterArgs = (): string[] => [
    ...['master', '--state', masterState, '--device', device, '--export', volume, '--listen', `unix:${socket}`],
    ...['--standby', `${standbyId}@${reachedAt}`, '--metrics', `127.0.0.1:${masterMetrics}`],
    ...['--transport', TRANSPORT, ...(options.master ?? [])],
  ]
  const standbyArgs = (): string[] => [
    ...['standby', '--state', standbyState, '--store', files.path('store'), '--listen', standbyAddress],
    ...['--allow', masterId, '--metrics', `127.0.0.1:${standbyMetrics}`, ...(options.standby ?? [])],
  ]
  const pair: Pair = {
    scratch: files,
    volume,
    device,
    image: join(files.path('store'), volume, 'image.raw'),
    socket,
    uri: `nbd+unix:///${volume}?socket=${socket}`,
    master: new Daemon(t, 'master', masterState, masterArgs, options.masterEnv),
    standby: new Daemon(t, 'standby', standbyState, standbyArgs, options.standbyEnv),
    masterId,
    standbyId,
    standbyAddress,
    metrics: { master: masterMetrics, standby: standbyMetrics },
  }
  if (options.idle === true) return pair
  await pair.standby.start()
  await pair.master.start()
  if (options.unsynchronized !== true) await inSync(pair)
  return pair
}

/** Waits until the standby has applied everything and nothing is dirty; returns the master's view. */
export function inSync(pair: Pair, limitMs = 30_000 * PATIENCE): Promise<VolumeStatus> {
  const done = (volume: VolumeStatus): boolean =>
    volume.state === 'replicating' && volume.applied === volume.written && volume.dirtyBytes === 0 && volume.usable
  return pair.master.until(pair.volume, 'in sync', done, limitMs)
}

// ---- images ----------------------------------------------------------------------------------------------------------

/** Asserts that two images have the same bytes; a failure names the first difference. */
export async function sameBytes(
  t: Test,
  expected: string,
  found: string,
  title = 'the images are identical',
): Promise<void> {
  const difference = await firstDifference(expected, found)
  t.equal(difference, 'none', title)
}

async function firstDifference(pathA: string, pathB: string): Promise<string> {
  if (!existsSync(pathA)) return `${pathA} is not there`
  if (!existsSync(pathB)) return `${pathB} is not there`
  const [a, b] = await Promise.all([open(pathA), open(pathB)])
  try {
    const [sizeA, sizeB] = [(await a.stat()).size, (await b.stat()).size]
    if (sizeA !== sizeB) return `sizes: ${sizeA} and ${sizeB}`
    const [bufferA, bufferB] = [Buffer.alloc(1 << 20), Buffer.alloc(1 << 20)]
    let regions = 0
    let first = -1
    for (let offset = 0; offset < sizeA; offset += bufferA.length) {
      const [gotA, gotB] = await Promise.all([
        a.read(bufferA, 0, bufferA.length, offset),
        b.read(bufferB, 0, bufferB.length, offset),
      ])
      const [viewA, viewB] = [bufferA.subarray(0, gotA.bytesRead), bufferB.subarray(0, gotB.bytesRead)]
      if (viewA.equals(viewB)) continue
      for (let at = 0; at < viewA.length; at += 4096) {
        if (viewA.subarray(at, at + 4096).equals(viewB.subarray(at, at + 4096))) continue
        regions += 1
        if (first < 0) first = offset + at
      }
    }
    return regions === 0 ? 'none' : `${regions} blocks of 4096 bytes differ, the first at ${first}`
  } finally {
    await Promise.all([a.close(), b.close()])
  }
}

/** What a process has had of a CPU so far: it counts what it does, whatever else the machine is busy with. */
export function cpuSeconds(pid: number): number {
  const [user, system] = readFileSync(`/proc/${pid}/stat`, 'latin1')
    .replace(/^.*\) /, '')
    .split(' ')
    .slice(11, 13)
  return (Number(user) + Number(system)) / 100
}

/** Makes a folder below the scratch folder. */
export function folder(files: Scratch, name: string): string {
  mkdirSync(files.path(name), { recursive: true })
  return files.path(name)
}

export const sleep = (milliseconds: number): Promise<void> => new Promise(resolve => setTimeout(resolve, milliseconds))

/** The value of a sample on /metrics; labels must all match. Undefined: it is not there. */
export async function metric(
  port: number,
  name: string,
  labels: Record<string, string> = {},
): Promise<number | undefined> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  for (const line of text.split('\n')) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line)
    if (match === null || match[1] !== name) continue
    if (Object.entries(labels).every(([key, value]) => (match[2] ?? '').includes(`${key}="${value}"`)))
      return Number(match[3])
  }
  return undefined
}

/**
 * Passes once a sample on /metrics has this value, or fulfils the condition: counters are read at intervals, and follow
 * what they count. Returns what it was last.
 */
export async function metricBecomes(
  t: Test,
  port: number,
  name: string,
  wanted: number | ((value: number) => boolean),
  labels: Record<string, string> = {},
): Promise<number> {
  const fulfils = (value: number | undefined): boolean =>
    typeof wanted === 'number' ? value === wanted : value !== undefined && wanted(value)
  const began = performance.now()
  const end = began + 20_000 * PATIENCE * SLOWER
  let value = await metric(port, name, labels)
  while (!fulfils(value) && performance.now() < end) {
    await sleep(nextLookMs(performance.now() - began))
    value = await metric(port, name, labels)
  }
  const title = `${name} ${Object.values(labels).join(' ')}`
  if (typeof wanted === 'number') t.equal(value, wanted, title)
  else t.ok(fulfils(value), `${title}: ${value}`)
  return value ?? NaN
}

/** Passes once the condition holds: what a process does shows a moment later in a file, a list or a log. */
export async function becomes(
  t: Test,
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = 20_000 * PATIENCE,
): Promise<void> {
  const end = performance.now() + limitMs * SLOWER
  let holds = await condition()
  for (; !holds && performance.now() < end; holds = await condition()) await sleep(20)
  t.ok(holds, what)
}

/** Passes once the daemon has said this on stdout or stderr: a line comes a moment after what it tells of. */
export async function logged(
  t: Test,
  daemon: { program: Program },
  pattern: RegExp,
  title = 'the log says so',
): Promise<void> {
  const said = (): string => daemon.program.stdout + daemon.program.stderr
  const end = performance.now() + 20_000 * PATIENCE * SLOWER
  while (!pattern.test(said()) && performance.now() < end) await sleep(20)
  t.match(said(), pattern, title)
}
