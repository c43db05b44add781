/** Stand-ins at the seams: a clock that moves when told, a transport without a network, an addon without bytes. */
import type { Clock } from '../../../src/core/clock.js'
import { createLogger, type Logger } from '../../../src/core/log.js'
import type {
  Addon,
  AddonEvent,
  AttachRequest,
  Compression,
  GroupSpec,
  ReplicaSpec,
  HistoryState,
} from '../../../src/native/binding.js'
import type { PeerAddress } from '../../../src/core/units.js'
import type {
  Listening,
  Session,
  SessionCloseReason,
  SessionHandler,
  Transport,
} from '../../../src/transport/transport.js'

export class FakeClock implements Clock {
  now = 1_000_000
  #timers: { at: number; call: () => void; everyMs?: number }[] = []

  monotonicMs(): number {
    return this.now
  }

  wallMs(): number {
    return this.now
  }

  after(milliseconds: number, call: () => void): () => void {
    return this.#add({ at: this.now + milliseconds, call })
  }

  every(milliseconds: number, call: () => void): () => void {
    return this.#add({ at: this.now + milliseconds, call, everyMs: milliseconds })
  }

  /** Lets promises settle before, between and after the timers that come due. */
  async advance(milliseconds: number): Promise<void> {
    const end = this.now + milliseconds
    await settle()
    for (;;) {
      const next = this.#timers.filter(timer => timer.at <= end).sort((a, b) => a.at - b.at)[0]
      if (next === undefined) break
      this.now = Math.max(this.now, next.at)
      if (next.everyMs === undefined) this.#timers = this.#timers.filter(timer => timer !== next)
      else next.at += next.everyMs
      next.call()
      await settle()
    }
    this.now = end
    await settle()
  }

  #add(timer: { at: number; call: () => void; everyMs?: number }): () => void {
    this.#timers.push(timer)
    return () => {
      this.#timers = this.#timers.filter(other => other !== timer)
    }
  }
}

export async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await Promise.resolve()
  await new Promise(resolve => setImmediate(resolve))
}

export class FakeSession implements Session {
  readonly sent: Record<string, unknown>[] = []
  closedWith: string | undefined
  handler: SessionHandler | undefined
  static last = 0n
  readonly id = ++FakeSession.last

  constructor(
    readonly peerId: string,
    readonly address = '192.0.2.1:7000',
  ) {}

  send(message: object): void {
    if (this.closedWith === undefined) this.sent.push(JSON.parse(JSON.stringify(message)) as Record<string, unknown>)
  }

  /** The engine says that it is closed a moment later. */
  close(text: string): void {
    if (this.closedWith !== undefined) return
    this.closedWith = text
    queueMicrotask(() => this.handler?.closed(this, 'local', text))
  }

  end(reason: SessionCloseReason, text = ''): void {
    this.closedWith = text
    this.handler?.closed(this, reason, text)
  }

  establish(): void {
    this.handler?.established(this)
  }

  receive(message: object): void {
    this.handler?.message(this, JSON.parse(JSON.stringify(message)))
  }
}

export class FakeTransport implements Transport {
  readonly port = 7000
  readonly sessions: FakeSession[] = []
  allowed: readonly string[] = []
  closed = false

  constructor(private readonly listening?: Listening) {}

  connect(peer: PeerAddress, handler: SessionHandler): Session {
    const session = new FakeSession(peer.id)
    session.handler = handler
    this.sessions.push(session)
    return session
  }

  /** A master connects to us. */
  incoming(masterId: string): FakeSession {
    const session = new FakeSession(masterId, `192.0.2.9:${5000 + this.sessions.length}`)
    session.handler = this.listening?.accept(session)
    this.sessions.push(session)
    session.establish()
    return session
  }

  reject(reason: SessionCloseReason, text: string): void {
    this.listening?.rejected(reason, text)
  }

  get last(): FakeSession {
    const session = this.sessions.at(-1)
    if (session === undefined) throw new Error('nobody has connected')
    return session
  }

  allow(ids: readonly string[]): void {
    this.allowed = ids
  }

  close(): void {
    this.closed = true
  }
}

const groupCounters = [
  'incarnation', 'peer_incarnation', 'peer_flags', 'state', 'written_sequence', 'written_bytes', 'durable_sequence', 'applied_sequence', 'applied_bytes',
] // prettier-ignore
const replicaCounters = [
  'phase',
  'incarnation',
  'received_sequence',
  'received_bytes',
  'durable_sequence',
  'applied_sequence',
  'last_heard_ns',
  'last_errno',
]
const layoutOf = (names: string[]): Record<string, number> =>
  Object.fromEntries(names.map((name, index) => [name, index]))

/** Remembers what it was asked, in order; counters are set by the test. */
export class FakeAddon {
  readonly calls: string[] = []
  readonly attached: AttachRequest[] = []
  readonly groups: GroupSpec[] = []
  readonly replicas: ReplicaSpec[] = []
  position = { incarnation: 0n, received: 0n }
  /** Of the dirty maps that are trusted; undefined: they are damaged. */
  /** The file of a map that is trusted can be read. */
  mapReadable = true
  mapFloor: { incarnation: bigint; durable: bigint } | undefined = { incarnation: 0n, durable: 0n }
  /** Of the master. */
  heldLease = { untilNs: 0n, leftMs: 0 }
  /** What the standby lets its engine grant, and how long ago that granted something. */
  readonly grantable: number[] = []
  /** How it was told to expect records. */
  readonly compressions: Compression[] = []
  leaseAge = -1
  failing = new Map<string, Error & { code?: string }>()
  readonly #buffer = new ArrayBuffer(64 * 512 * 8)
  #pages = 0
  #listeners = new Set<(event: AddonEvent) => void>()
  readonly #layout = {
    volume: layoutOf(['dirty_bytes']),
    group: layoutOf(groupCounters),
    replica: layoutOf(replicaCounters),
  }

  /** As the parts take it: whatever is not here is not called. */
  get addon(): Addon {
    return this as unknown as Addon
  }

  subscribe(listener: (event: AddonEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  emit(event: AddonEvent): void {
    for (const listener of this.#listeners) listener(event)
  }

  set(kind: 'volume' | 'group' | 'replica', page: number, values: Record<string, bigint>): void {
    const words = new BigUint64Array(this.#buffer)
    for (const [name, value] of Object.entries(values)) words[page * 512 + (this.#layout[kind][name] ?? 511)] = value
  }

  counters(): ArrayBuffer {
    return this.#buffer
  }

  counterLayout(): ReturnType<Addon['counterLayout']> {
    return this.#layout
  }

  partitions(): Promise<never[]> {
    return Promise.resolve([])
  }

  findFilesystems(): Promise<never[]> {
    return Promise.resolve([])
  }

  readFilesystems(): ReturnType<Addon['readFilesystems']> {
    return Promise.resolve({ reading: 1, contents: [] })
  }

  forgetReading(): void {
    this.#call('forgetReading')
  }

  makeWatches(): ReturnType<Addon['makeWatches']> {
    return Promise.resolve({ watches: 1, fileSystems: [], bytes: 0, rangeCount: 0, around: new BigUint64Array() })
  }

  forgetWatches(): void {
    this.#call('forgetWatches')
  }

  leftOut(): Promise<BigUint64Array> {
    return Promise.resolve(new BigUint64Array())
  }

  savedByRule(): Record<string, number> {
    return {}
  }

  openGroup(spec: GroupSpec): ReturnType<Addon['openGroup']> {
    this.#call('openGroup')
    this.groups.push(spec)
    const device = {
      sizeBytes: 1n << 20n,
      blockMin: 512,
      blockPreferred: 4096,
      blockMax: 1 << 25,
      readOnly: false,
      canZero: true,
      isBlockDevice: false,
    }
    const volumes = spec.volumes.map(({ map }, index) => ({
      volume: 100 * this.groups.length + index,
      device,
      counterPage: ++this.#pages,
      ...(map?.handed !== undefined ? { mapFloor: { incarnation: 0n, durable: 0n } } : {}),
      ...(map?.trusted === true && this.mapFloor !== undefined ? { mapFloor: this.mapFloor } : {}),
      mapStored: map?.trusted === true && this.mapReadable,
    }))
    const counterPage = ++this.#pages
    this.set('group', counterPage, { incarnation: spec.incarnation, state: spec.replicated ? 1n : 0n })
    return { group: this.groups.length, volumes, counterPage }
  }

  attach(_group: number, request: AttachRequest): void {
    this.#call('attach')
    this.attached.push(request)
  }

  part(): void {
    this.#call('part')
  }

  detach(): void {
    this.#call('detach')
  }

  async quiesce(): Promise<void> {
    this.#call('quiesce')
  }

  async fillMap(): Promise<void> {
    this.#call('fillMap')
  }

  async finishMap(): Promise<{ sequence: bigint }> {
    this.#call('finishMap')
    return { sequence: 0n }
  }

  async handOverMap(): Promise<{ sequence: bigint; fd: number }> {
    this.#call('handOverMap')
    return { sequence: 0n, fd: 5 }
  }

  async closeGroup(): Promise<void> {
    this.#call('closeGroup')
  }

  lease(): ReturnType<Addon['lease']> {
    return this.heldLease
  }

  startLease(): void {
    this.#call('startLease')
  }

  letWrite(): void {
    this.#call('letWrite')
  }

  waiveLease(): void {
    this.#call('waiveLease')
  }

  leaseAgeMs(): number {
    return this.leaseAge
  }

  watchRanges(): Promise<number> {
    this.#call('watchRanges')
    return Promise.resolve(0)
  }

  setRanges(): Promise<{ refused: number; why: string }> {
    this.#call('setRanges')
    return Promise.resolve({ refused: -1, why: '' })
  }

  openReplica(spec: ReplicaSpec): ReturnType<Addon['openReplica']> {
    this.#call('openReplica')
    this.replicas.push(spec)
    const counterPage = ++this.#pages
    return { replica: counterPage, counterPage }
  }

  closeReplica(): void {
    this.#call('closeReplica')
  }

  attachReplica(
    _replica: number,
    _session: bigint,
    leaseMs: number,
    compress: Compression,
  ): { incarnation: bigint; received: bigint } {
    this.#call('attachReplica')
    this.grantable.push(leaseMs)
    this.compressions.push(compress)
    return this.position
  }

  async drainReplica(): Promise<void> {
    this.#call('drainReplica')
  }

  /** What sealReplica() answers who does not wait. */
  sealedAt: { incarnation: bigint; sequence: bigint } | undefined

  async sealReplica(_replica: number, _timeoutMs: number, ahead: boolean): ReturnType<Addon['sealReplica']> {
    this.#call('sealReplica')
    return ahead ? this.sealedAt : undefined
  }

  async catchUpReplica(): Promise<void> {
    this.#call('catchUpReplica')
  }

  async replicaViewAt(_replica: number, volumes: number[]): ReturnType<Addon['replicaViewAt']> {
    this.#call('replicaViewAt')
    const point = { incarnation: 5n, sequence: 6n, timeNs: 0n }
    return { views: volumes.map(volume => 900 + volume), point }
  }

  /** What a cloneImage() waits for. */
  cloning: Promise<void> | undefined

  async cloneImage(_replica: number, volume: number, path: string, tail: Uint8Array): ReturnType<Addon['cloneImage']> {
    this.#call('cloneImage')
    this.calls.push(`${volume} ${path} ${tail.byteLength}`)
    await this.cloning
    return { incarnation: 5n, sequence: 6n, timeNs: 0n }
  }

  /** Which point any moment is. */
  found = { incarnation: 5n, sequence: 4n, timeNs: 1_000_000_000n, isWithinStep: false }

  async findMoment(): ReturnType<Addon['findMoment']> {
    this.#call('findMoment')
    return this.found
  }

  /** Not among the calls: it changes no outcome. */
  asides: boolean[] = []

  standAside(_replica: number, isAside: boolean): void {
    this.asides.push(isAside)
  }

  holdHistory(_replica: number, isHeld: boolean): void {
    this.#call(isHeld ? 'holdHistory' : 'letHistoryGo')
  }

  /** So many calls of rollBackReplica() until it is done. */
  parts = 2
  rolledBackTo: unknown

  async rollBackReplica(_replica: number, to: unknown): ReturnType<Addon['rollBackReplica']> {
    this.rolledBackTo = to
    this.#call('rollBackReplica')
    await new Promise(resolve => setImmediate(resolve))
    this.parts--
    return { doneBytes: 8192 - 4096 * this.parts, totalBytes: 8192, isDone: this.parts === 0 }
  }

  /** What replicaHistory() tells; undefined: where the views are, and nothing before. */
  history: HistoryState | null | undefined

  replicaHistory(): HistoryState | null {
    const here = { incarnation: 5n, sequence: 6n, timeNs: 1n }
    const packed = { compressedSegments: 0, compressedBytes: 0, uncompressedBytes: 0 }
    const none = { bytes: 0, savedBytes: 0, epochs: 1, segments: 1, ...packed }
    return this.history === undefined ? { oldest: here, newest: here, ...none } : this.history
  }

  #call(name: string): void {
    this.calls.push(name)
    const failure = this.failing.get(name)
    if (failure !== undefined) throw failure
  }
}

/** A logger whose lines can be looked at. */
export function rememberingLog(): { log: Logger; lines: string[] } {
  const lines: string[] = []
  return { log: createLogger('test', line => lines.push(line)), lines }
}

export function errno(code: string): Error & { code: string } {
  return Object.assign(new Error(code), { code })
}
