/**
 * Standby: all groups of which this daemon is the standby: one endpoint, one store, many masters.
 *
 * Guarantees: only masters on the allow list are heard; a hello is judged before anything is written, and a refusal is
 * told to the master and logged here in the same words; copies are open from the start, so that they can be exported
 * with every master dead. A session that says nothing is closed after 10 s, and there are at most 256 of them.
 */
import { randomUUID } from 'node:crypto'

import { type Clock, systemClock } from '../core/clock.js'
import type { GroupConfig, StandbyConfig } from '../core/config-types.js'
import { readDeviceFacts } from '../core/device-facts.js'
import { describe, SafetyRefusal, UnderstudyError, UsageError } from '../core/errors.js'
import type { Hand } from '../core/handed.js'
import type { Logger } from '../core/log.js'
import { random64 } from '../core/random64.js'
import type { Reign } from '../core/reigns.js'
import type { VolumeStatus } from '../core/status-types.js'
import { version } from '../core/version.js'
import type { Addon, AddonEvent, Point } from '../native/binding.js'
import { CounterReader } from '../native/counters.js'
import type { EventSource } from '../native/events.js'
import {
  decodeAbdicate,
  decodeLeftOut,
  decodeFollow,
  decodeHello,
  decodeMark,
  decodeVersions,
  encodeRefused,
  type Hello,
  type Mark,
  type RefusalCode,
  typeOf,
} from '../transport/messages.js'
import { openTransport as openOutgoing } from '../transport/open-transport.js'
import { QuicTransport } from '../transport/quic.js'
import { ReachableByTunnel } from '../transport/tunnel-door.js'
import type { HostKey, Listening, Session, SessionHandler, Transport } from '../transport/transport.js'
import { chooseVersion, ownVersions } from '../transport/versions.js'
import { Follow } from './follow.js'
import { judgeHello, type StoreView } from './hello-judgement.js'
import type { HistoryListing } from './history.js'
import { type ExportedVolume, savedGroup } from './open-volumes.js'
import type { StandbyImage } from './image.js'
import { leftOutOf, type Origin, type ReplicaRecord, type ReplicaVolume } from './replica-file.js'
import type { ReigningMaster, Reigns } from './reigning.js'
import { RejectionLog } from './rejection-log.js'
import type { FileWish } from './image-file.js'
import type { HistoryPoint } from './points.js'
import type { PromoteOptions } from './promoting.js'
import { type Following, idleTimeoutMs, StandbyGroup } from './standby-group.js'
import { newestSaved } from './saved-regions.js'
import { Store } from './store.js'
import type { GroupView, StandbyView, ViewOptions } from './views.js'

export interface StandbyDeps {
  addon: Addon
  events: EventSource
  identity: HostKey & { readonly id: string }
  log: Logger
  clock?: Clock
  random64?: () => bigint
  reigns: Reigns
  /** This host's own groups: of some it may be the standby by now. */
  groups: GroupConfig[]
  /** What this host is the master of has changed. */
  changed?: () => void
  /** Somebody is about to read a volume's copy. */
  used?: (volume: string) => void
  /** Instead of QUIC. */
  listen?: (listening: Listening) => Transport
}

export interface PromotedExport {
  exported: ExportedVolume
  /** As typed; undefined: nowhere. */
  listen: string | undefined
}

export interface CopiedGroup {
  group: string
  masterId: string
  /** STORE/.groups/GROUP */
  directory: string
  volumes: CopiedVolume[]
}

export interface CopiedVolume extends ReplicaVolume {
  /** STORE/VOLUME */
  folder: string
  /** Its file or device. */
  image: string
}

const sessionsMax = 256
const helloTimeoutMs = 10_000
const sampleMs = 200

export class Standby {
  readonly port: number
  #config: StandbyConfig
  readonly #deps: StandbyDeps
  readonly #log: Logger
  readonly #clock: Clock
  readonly #counters: CounterReader
  readonly #store: Store
  readonly #transport: Transport
  readonly #groups = new Map<string, StandbyGroup>()
  readonly #cleanUps: (() => void)[] = []
  #sessions = 0
  #stopping = false

  /** Throws, with nothing left open, when the address or the store is not to be had. */
  static async open(config: StandbyConfig, deps: StandbyDeps): Promise<Standby> {
    // The address first: when it is taken, nothing has been written yet.
    const waiting: Standby[] = []
    const rejections = new RejectionLog(deps.log, deps.clock ?? systemClock, deps.identity)
    const transport = openTransport(config, deps, {
      accept: session => waiting[0]?.accept(session) ?? refuseEarly(session),
      rejected: (reason, text) => rejections.rejected(reason, text),
    })
    try {
      const store = Store.open(config.store)
      const standby = new Standby(config, deps, store, transport)
      try {
        await standby.#openGroups()
      } catch (error) {
        await standby.close({ drainMs: 0 })
        throw error
      }
      waiting.push(standby)
      return standby
    } catch (error) {
      transport.close()
      throw error
    }
  }

  private constructor(config: StandbyConfig, deps: StandbyDeps, store: Store, transport: Transport) {
    this.#config = config
    this.#deps = deps
    this.#log = deps.log
    this.#clock = deps.clock ?? systemClock
    this.#counters = new CounterReader(deps.addon)
    this.#store = store
    this.#transport = transport
    this.port = transport.port
    this.#cleanUps.push(
      deps.events.subscribe(event => this.#handle(event)),
      this.#clock.every(sampleMs, () => this.#groups.forEach(group => group.tick())),
    )
  }

  get config(): StandbyConfig {
    return this.#config
  }

  status(): VolumeStatus[] {
    return [...this.#groups.values()].flatMap(group => group.status())
  }

  /** All volumes of a group, at one position. */
  viewGroup(group: string, options: ViewOptions): Promise<GroupView> {
    return this.#named(options.viewer?.action ?? 'export', group).viewAll(options)
  }

  isPromoted(group: string): boolean {
    return this.#named('vm', group).record.promotion !== undefined
  }

  isBeingPromoted(group: string): boolean {
    return this.#named('vm', group).isBeingPromoted
  }

  /** What was asked of the group before is done, or has failed. */
  settled(group: string): Promise<void> {
    return this.#named('vm', group).settled()
  }

  /** Throws when the group's history has no such moment. */
  async checkMoment(action: string, group: string, at: string): Promise<void> {
    await this.#named('vm', group).findMoment(action, at)
  }

  /** What lies in the store, whoever reigns over it. */
  copiedGroups(): CopiedGroup[] {
    const store = this.#store
    return [...this.#groups.values()].map(({ record: { group, masterId, volumes } }) => ({
      ...{ group, masterId, directory: store.groupDirectory(group) },
      volumes: volumes.map(volume => ({
        ...volume,
        folder: store.imageDirectory(volume.name),
        image: store.imagePath(volume),
      })),
    }))
  }

  replicaPages(): { group: string; page: number }[] {
    return [...this.#groups.values()].flatMap(({ record, replicaPage }) =>
      replicaPage === undefined ? [] : [{ group: record.group, page: replicaPage }],
    )
  }

  images(): StandbyImage[] {
    return [...this.#groups.values()].flatMap(group => group.images())
  }

  /** Of whose groups this host is the master since a promotion. */
  masters(): ReigningMaster[] {
    return [...this.#groups.values()].flatMap(({ promoted }) => promoted ?? [])
  }

  /** A group that is configured here, and of which this host has ceased to be the master. */
  has(group: string): boolean {
    return this.#groups.has(group)
  }

  /** On disk when it returns: this host is the standby of a group of its own from now on. */
  adopt(
    own: GroupConfig,
    volumes: readonly Pick<ReplicaVolume, 'name' | 'uuid' | 'sizeBytes'>[],
    history: readonly Reign[],
    origin: Origin,
  ): void {
    this.#store.save({
      group: own.name,
      masterId: own.standby?.id ?? '',
      replicaId: randomUUID(),
      generation: origin.reign,
      history: [...history],
      durability: own.durability,
      imagesMade: true,
      volumes: volumes.map(({ name, uuid, sizeBytes }) => ({ name, uuid, sizeBytes, device: deviceOf(own, name) })),
      origin,
    })
  }

  /** Opens what adopt() has put on disk. */
  async openAdopted(own: GroupConfig): Promise<void> {
    const record = this.#store.read(own.name)
    if (record !== undefined && !this.#groups.has(own.name)) await this.#add(record).open()
  }

  demote(volume: string, takeOver: boolean, drainMs: number): Promise<string[]> {
    return this.#find('demote', volume).group.demote(volume, takeOver, drainMs)
  }

  resolve(volume: string): Promise<string[]> {
    return this.#find('resolve', volume).group.yieldTo(volume)
  }

  pause(volume: string): Promise<void> {
    return this.#find('pause', volume).group.pause()
  }

  resume(volume: string): void {
    this.#find('resume', volume).group.resume()
  }

  invalidate(volume: string, inPlace: boolean): Promise<void> {
    return this.#find('invalidate', volume).group.invalidate(inPlace)
  }

  async view(volume: string, options: ViewOptions): Promise<StandbyView> {
    const found = this.#find('export', volume)
    this.#deps.used?.(volume)
    return found.group.view(found.volume, options)
  }

  makeFile(volume: string, wish: FileWish): Promise<Point> {
    const found = this.#find('export', volume)
    return found.group.makeFile(found.volume, wish)
  }

  listHistory(action: string, volume: string, from: string, to: string, buckets: number): Promise<HistoryListing> {
    return this.#find(action, volume).group.listHistory(action, from, to, buckets)
  }

  mark(volume: string, label: string): Promise<HistoryPoint> {
    return this.#find('mark', volume).group.mark(volume, label)
  }

  /** A promotion of it is near. */
  standAside(group: string): void {
    this.#named('vm', group).standAside(true)
  }

  /** The whole group of the volume. What it serves from now on is in promoted(). */
  async promote(volume: string, options: PromoteOptions): Promise<{ messages: string[] }> {
    const { group } = this.#find('promote', volume)
    return { messages: await group.promote(volume, options) }
  }

  /** Volumes that were promoted, now or before a restart, and are to be served. */
  promoted(): PromotedExport[] {
    return [...this.#groups.values()].flatMap(({ promoted, record }) =>
      (promoted?.isOwed === false ? promoted.exports() : []).map(exported => ({
        exported,
        listen: record.promotion?.listen,
      })),
    )
  }

  get savedDirectory(): string {
    return this.#store.savedDirectory
  }

  /** What a resolve() has saved: `file`, or the newest of the volume. */
  saved(volume: string, file: string): StandbyView {
    const path = file === '' ? newestSaved(this.#store.savedDirectory, volume) : file
    const { addon } = this.#deps
    const open = savedGroup(addon, volume, path, (this.#deps.random64 ?? random64)())
    const [exported] = open.exported
    if (exported === undefined) throw new UsageError(`export ${volume}: the engine opened nothing of ${path}`)
    return { exported, position: { incarnation: '0', sequence: '0' }, close: () => open.close() }
  }

  setStaging(bytes: number): void {
    this.#config = { ...this.#config, stagingBytes: bytes }
    for (const group of this.#groups.values()) group.stagingChanged()
  }

  setAllow(ids: string[]): void {
    this.#config = { ...this.#config, allow: ids }
    this.#transport.allow(ids)
  }

  /** Ends the sessions, applies what was received, closes everything. */
  async close({ drainMs, hand }: { drainMs: number; hand?: Hand }): Promise<{ drained: boolean; dirtyBytes: number }> {
    this.#stopping = true
    const drained = await Promise.all([...this.#groups.values()].map(group => group.close(drainMs, hand)))
    this.#transport.close()
    for (const cleanUp of this.#cleanUps.splice(0)) cleanUp()
    this.#store.close()
    return { drained: drained.every(Boolean), dirtyBytes: 0 }
  }

  /** A new session: its first message must be a hello. */
  accept(session: Session): SessionHandler {
    if (this.#sessions >= sessionsMax || this.#stopping) return refuseEarly(session)
    this.#sessions++
    let end = (): void => undefined
    const ended = new Promise<void>(resolve => (end = resolve))
    const cancel = this.#clock.after(helloTimeoutMs, () => session.close(`no hello within ${helloTimeoutMs / 1000} s`))
    let greeted = false
    let master: SessionHandler | undefined
    return {
      established: () => undefined,
      message: (_, message) => {
        if (master !== undefined) return master.message(session, message)
        const type = typeOf(message)
        if (type !== 'hello' && type !== 'follow') return this.#said(session, message)
        cancel()
        if (greeted) return session.close('a second hello in one session')
        greeted = true
        if (type === 'follow') master = this.#offer(session, message)
        else void this.#greet(session, ended, message)
      },
      closed: (_, reason, text) => {
        cancel()
        this.#sessions--
        master?.closed(session, reason, text)
        this.#log.info(
          `session with master ${session.peerId.slice(0, 16)} at ${session.address} ended (${reason}${text === '' ? '' : `: ${text}`})`,
        )
        end()
      },
    }
  }

  async #greet(session: Session, ended: Promise<void>, message: unknown): Promise<void> {
    try {
      const versions = chooseVersion(decodeVersions(message), ownVersions(version))
      if ('problem' in versions) return this.#refuse(session, 'protocol', versions.problem)
      const hello = { ...decodeHello(message), protocol: versions.version }
      this.#noteRotation(session)
      const known = this.#groups.get(hello.group)
      if (known?.record.masterId === session.peerId) await known.giveWay(hello)
      const refusal = judgeHello(hello, session.peerId, this.#storeView())
      if (refusal !== undefined) {
        if (known?.record.masterId === session.peerId && ['promoted', 'diverged'].includes(refusal.code))
          known.noteOutranked({
            code: refusal.code === 'promoted' ? 'challenged' : 'diverged',
            message: refusal.message,
            history: hello.history,
            yield: false,
          })
        return this.#refuse(session, refusal.code, refusal.message, known?.record.history, known?.promoted?.mustYield)
      }
      const group = this.#groups.get(hello.group) ?? this.#create(hello, session.peerId)
      await group.welcome({ session, ended }, hello)
    } catch (error) {
      const code = this.#stopping
        ? 'stopping'
        : error instanceof UnderstudyError && error.code === 'BAD_MESSAGE'
          ? 'bad-hello'
          : 'failed'
      this.#refuse(session, code, describe(error))
    }
  }

  /** A host that was configured with our address has a copy, and wants a master. */
  #offer(session: Session, message: unknown): SessionHandler | undefined {
    try {
      const follow = decodeFollow(message)
      this.#noteRotation(session)
      const group = this.#groups.get(follow.group)
      if (group?.record.masterId !== session.peerId)
        throw new SafetyRefusal('OTHER_MASTER', `group ${follow.group}: it is not one of this peer's here`)
      const master = group.offer(session)
      if (master === undefined) {
        const todo = `'understudy promote', on either side, makes that side the master`
        // Only who is told 'not-master' may take a reign back that it has given away.
        if (group.takesOver) this.#refuse(session, 'failed', `group ${follow.group}: it is taking over`)
        else this.#refuse(session, 'not-master', `group ${follow.group}: neither side is its master now; ${todo}`)
      }
      return master
    } catch (error) {
      this.#refuse(session, 'failed', describe(error))
      return undefined
    }
  }

  /** A master whose key was rotated: its copies are the new id's once that is allowed; until then somebody is told. */
  #noteRotation({ peerId, keys }: Session): void {
    if (keys === undefined || keys.formerId === '') return
    const { keyId, formerId } = keys
    if (peerId !== keyId) {
      this.#log.warn(
        `master ${peerId} has a new id: understudy allow ${keyId}, and put it where a configuration names the old one; its rotation is not to be finished before`,
      )
      return
    }
    for (const { record } of this.#groups.values()) {
      if (record.masterId !== formerId) continue
      record.masterId = keyId
      this.#store.save(record)
      this.#log.info(`group ${record.group}: its master's id is ${keyId} now, it was ${formerId}`)
    }
  }

  /** By a master, behind its hello. */
  #said(session: Session, message: unknown): void {
    const type = typeOf(message)
    if (type === 'left-out') for (const group of this.#groups.values()) group.leftOut(session, decodeLeftOut(message))
    if (type === 'mark') this.#mark(session, decodeMark(message))
    if (type !== 'abdicate') return // of a newer version
    const abdicate = decodeAbdicate(message)
    for (const group of this.#groups.values())
      group.abdicated({ session }, abdicate).catch((error: unknown) => this.#log.error(describe(error)))
  }

  #mark(session: Session, mark: Mark): void {
    for (const group of this.#groups.values())
      group.marked(session, mark).catch((error: unknown) => this.#log.error(describe(error)))
  }

  /** To the other host, which reigns over a group of this host's own. */
  #follow(own: GroupConfig, group: StandbyGroup): Following {
    const peer = own.standby
    if (peer === undefined) throw new UsageError(`group ${own.name}: no standby is configured`)
    const { record } = group
    return new Follow({
      group: own.name,
      peer,
      transport: openOutgoing(own, this.#deps),
      clock: this.#clock,
      log: this.#log,
      history: () => record.history,
      greet: (session, ended, hello) => void this.#greet(session, ended, hello),
      said: (session, message) => this.#said(session, message),
      refused: refused => {
        // Given away to a standby that was to take over at once, and has not: nobody else can have it.
        const again = refused.code === 'not-master' && record.origin?.switchover === true
        if (!again) return
        group
          .promote(own.name, { acceptLoss: false, force: false })
          .then(() => this.#deps.changed?.())
          .catch((error: unknown) => this.#log.error(describe(error)))
      },
    })
  }

  #refuse(
    session: Session,
    code: RefusalCode,
    message: string,
    history: readonly Reign[] = [],
    mustYield = false,
  ): void {
    this.#log.warn(`refused master ${session.peerId} at ${session.address}: ${message}`)
    // The master closes the session when it has read this.
    session.send(encodeRefused(code, message, history, mustYield))
    this.#clock.after(helloTimeoutMs, () => session.close('refused'))
  }

  #create(hello: Hello, masterId: string): StandbyGroup {
    const record: ReplicaRecord = {
      group: hello.group,
      masterId,
      replicaId: randomUUID(),
      generation: hello.generation,
      history: hello.history,
      durability: hello.durability,
      imagesMade: false,
      volumes: hello.volumes.map(({ name, uuid, sizeBytes, ...volume }) => {
        const device = this.#config.devices.get(name)
        return { name, uuid, sizeBytes, ...leftOutOf(volume), ...(device === undefined ? {} : { device }) }
      }),
    }
    this.#store.create(record)
    this.#log.info(`group ${record.group}: a new copy for master ${masterId.slice(0, 16)}`)
    return this.#add(record)
  }

  #add(record: ReplicaRecord): StandbyGroup {
    const group = new StandbyGroup(record, {
      stagingBytes: () => this.#config.stagingBytes,
      keptHistory: this.#config.history,
      addon: this.#deps.addon,
      counters: this.#counters,
      clock: this.#clock,
      log: this.#log,
      store: this.#store,
      random64: this.#deps.random64 ?? random64,
      ownId: this.#deps.identity.id,
      reigns: this.#deps.reigns,
      own: this.#own(record.group),
      follow: (own, group) => this.#follow(own, group),
      changed: () => this.#deps.changed?.(),
    })
    this.#groups.set(record.group, group)
    return group
  }

  /** One group that cannot be opened does not keep the others from running; its master's next hello tries again. */
  async #openGroups(): Promise<void> {
    for (const record of this.#store.load(this.#log)) {
      this.#checkDevices(record)
      try {
        await this.#add(record).open()
      } catch (error) {
        this.#log.error(describe(error))
      }
    }
  }

  #own(group: string): GroupConfig | undefined {
    return this.#deps.groups.find(({ name }) => name === group)
  }

  #checkDevices(record: ReplicaRecord): void {
    const own = this.#own(record.group)
    for (const volume of record.volumes) {
      const configured = own === undefined ? this.#config.devices.get(volume.name) : deviceOf(own, volume.name)
      if (configured === volume.device) continue
      const [was, now] = [volume.device, configured].map(device => device ?? `STORE/${volume.name}/image.raw`)
      throw new UnderstudyError(
        'OTHER_DEVICE',
        `volume ${volume.name}: its copy is ${was}, and ${now} is configured now; put --device back, or remove STORE/.groups/${record.group} to begin anew`,
        {
          exitCode: 2,
        },
      )
    }
  }

  #storeView(): StoreView {
    const records = [...this.#groups.values()].map(group => group.record)
    return {
      path: this.#store.path,
      record: group => this.#groups.get(group)?.record,
      ownerOf: volume => records.find(record => record.volumes.some(({ name }) => name === volume)),
      hasImage: volume => this.#store.hasImage(volume),
      devices: this.#config.devices,
      deviceFacts: path => readDeviceFacts(path, "the standby's device"),
    }
  }

  #named(action: string, name: string): StandbyGroup {
    const group = this.#groups.get(name)
    if (group !== undefined) return group
    throw new UsageError(
      `${action}: the standby has no group '${name}'; it has: ${[...this.#groups.keys()].join(', ') || 'none'}`,
    )
  }

  #find(action: string, name: string): { group: StandbyGroup; volume: ReplicaVolume } {
    for (const group of this.#groups.values()) {
      const volume = group.record.volumes.find(candidate => candidate.name === name)
      if (volume !== undefined) return { group, volume }
    }
    const names = [...this.#groups.values()].flatMap(({ record }) => record.volumes.map(volume => volume.name))
    throw new UsageError(
      `${action}: the standby has no volume '${name}'; it has: ${names.length === 0 ? 'none' : names.join(', ')}`,
    )
  }

  #handle(event: AddonEvent): void {
    if (event.type !== 'replica-error') return
    for (const group of this.#groups.values()) if (group.replicaHandle === event.replica) group.failed(event.message)
  }
}

const deviceOf = (own: GroupConfig, name: string): string =>
  own.volumes.find(volume => volume.name === name)?.device ?? ''

function openTransport(
  config: StandbyConfig,
  deps: StandbyDeps,
  door: Pick<Listening, 'accept' | 'rejected'>,
): Transport {
  const { listen } = config
  if (listen === undefined) return nowhere
  const listening: Listening = { address: listen, allow: config.allow, ...door }
  if (deps.listen !== undefined) return deps.listen(listening)
  const quic = new QuicTransport({
    addon: deps.addon,
    events: deps.events,
    identity: deps.identity,
    idleTimeoutMs,
    listening,
  })
  if (config.transport === 'quic') return quic
  return new ReachableByTunnel(quic, {
    addon: deps.addon,
    identity: deps.identity,
    address: { host: listen.host, port: quic.port },
    allowed: config.allow,
    log: deps.log,
    rejected: door.rejected,
  })
}

/** Nobody connects to this host. */
const nowhere: Transport = {
  port: 0,
  connect: () => {
    throw new UsageError('this transport neither listens nor connects')
  },
  allow: () => undefined,
  close: () => undefined,
}

/** While there is nobody to hear it; the master comes again. */
function refuseEarly(session: Session): SessionHandler {
  session.close('the standby is not ready')
  return { established: () => undefined, message: () => undefined, closed: () => undefined }
}
