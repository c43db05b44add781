/**
 * Volumes as /dev/nbdN of this host's own kernel, kept in STATE/attachments.json: they outlive the daemon.
 *
 *   attach() --> connected --the daemon dies--> (the kernel waits) --start--> waiting --its volume is served--> connected
 *                    |  `--the connection ends-----------------------------------^
 *                    `--detach(), or somebody else disconnects it--> forgotten
 *
 * Guarantees: one attachment for each device and for each volume; a device that somebody else has connected is left
 * alone; an attachment is on disk before the kernel knows of it, so that a crash leaves none that nobody serves again.
 * As soon as there is one, the data path is kept from waiting for memory (native/core/memory-guard.h): at a start before
 * anything is written, as the kernel may be full of pages that wait for this very daemon.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'

import { readJson, writeJson } from '../core/atomic-file.js'
import { Backoff } from '../core/backoff.js'
import { type Clock, systemClock } from '../core/clock.js'
import { describe, errnoOf, OperationError, SafetyRefusal, UsageError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { AttachmentStatus } from '../core/status-types.js'
import type { AttachmentFigures } from '../metrics/source.js'
import type { Addon, AddonEvent } from '../native/binding.js'
import type { EventSource } from '../native/events.js'
import { transmissionFlags } from '../nbd/exports.js'
import type { EstateClient } from './estate.js'
import { deviceOf, type NbdKernel, nbdKernel } from './nbd-kernel.js'
import type { ExportedVolume } from './roles.js'

export interface AttachmentOptions {
  addon: Pick<Addon, 'attachDevice' | 'detachDevice' | 'guardMemory' | 'adopt' | 'release'>
  events: EventSource
  log: Logger
  /** What clients may reach now. */
  served: (volume: string) => ExportedVolume | undefined
  kernel?: NbdKernel
  clock?: Clock
}

interface Attachment {
  index: number
  volume: string
  identifier: string
  /** How long the kernel waits for a daemon. */
  deadSeconds: number
  since: number
  /** Of the engine; undefined: waiting. */
  connection?: number
  connecting?: boolean
  leaving?: boolean
  /** Of a device whose users waited. */
  reconnects: number
  reason: string
  backoff: Backoff
}

const indexMax = 1 << 20
const attachmentsMax = 256
/** More than native/attach/generic-netlink.h waits for its answer. */
const kernelMs = 15_000
/** Of requests that were under way when a daemon died: how soon the kernel sends them to the next one. */
const requestTimerMs = 5_000

export class Attachments {
  private readonly path: string
  private readonly attachments: Attachment[] = []
  private readonly kernel: NbdKernel
  private readonly clock: Clock
  /** Devices whose connection a predecessor hands over. */
  private readonly expected = new Set<number>()
  private guarded: AttachmentFigures['guard'] = 'off'
  private stopped = false

  constructor(
    state: string,
    private readonly options: AttachmentOptions,
  ) {
    this.path = join(state, 'attachments.json')
    this.kernel = options.kernel ?? nbdKernel
    this.clock = options.clock ?? systemClock
    options.events.subscribe(event => this.heard(event))
  }

  /** Before anything else of a start: see above. Throws when the file is damaged. */
  prepare(handedOver: number[] = []): void {
    for (const stored of this.stored()) this.attachments.push(this.entry(stored))
    for (const index of handedOver) this.expected.add(index)
    if (this.attachments.length > 0) this.guard()
  }

  list(): AttachmentStatus[] {
    return this.attachments.map(({ index, volume, connection, since, reason }) => ({
      device: deviceOf(index),
      volume,
      state: connection === undefined ? 'waiting' : 'connected',
      since: new Date(since).toISOString(),
      reason,
    }))
  }

  figures(): AttachmentFigures {
    const devices = this.attachments.map(({ index, volume, connection, reconnects }) => ({
      ...{ device: deviceOf(index), volume, reconnects },
      connected: connection !== undefined,
    }))
    return { devices, guard: this.guarded }
  }

  /** Resolves when the device can be used. */
  async attach(volume: string, device: string, deadMs: number): Promise<void> {
    const index = indexOf(device)
    this.refuseSecond(volume, index)
    if (this.options.served(volume) === undefined)
      throw new OperationError(
        'NO_VOLUME',
        `attach: this host is not the master of a volume '${volume}', or does not serve it now`,
      )
    if (this.attachments.length >= attachmentsMax)
      throw new OperationError('TOO_MANY', `attach: there are ${attachmentsMax} attachments, which is the most`)
    const deadSeconds = Math.ceil(deadMs / 1000)
    const identifier = `understudy:${volume}:${randomBytes(8).toString('hex')}`
    const attachment = this.entry({ index, volume, identifier, deadSeconds })
    this.guard()
    this.attachments.push(attachment)
    try {
      this.save()
      await this.inTime(this.connect(attachment), device)
    } catch (error) {
      this.forget(attachment)
      // Connected, and nobody to serve it.
      if (this.ours(attachment)) await this.options.addon.detachDevice(index).catch(() => undefined)
      throw explain(error, device)
    }
  }

  /** By device or volume. */
  async detach(name: string, force: boolean): Promise<string> {
    const attachment = this.attachments.find(({ index, volume }) => name === deviceOf(index) || name === volume)
    if (attachment === undefined) throw new OperationError('NOT_ATTACHED', `detach: nothing is attached as '${name}'`)
    const device = deviceOf(attachment.index)
    if (!force && this.kernel.inUse(attachment.index))
      throw new SafetyRefusal(
        'IN_USE',
        `detach: ${device} is mounted or otherwise in use; umount it first (--force: its users get I/O errors)`,
      )
    attachment.leaving = true
    try {
      if (this.ours(attachment)) await this.inTime(this.options.addon.detachDevice(attachment.index), device)
    } catch (error) {
      attachment.leaving = false
      throw explain(error, device)
    }
    this.forget(attachment)
    this.options.log.info(`${device}: volume ${attachment.volume} is detached`)
    return device
  }

  /** Marks the clients that are this host's kernel. */
  among(clients: EstateClient[]): EstateClient[] {
    return clients.map(entry => {
      const found = this.attachments.find(({ connection }) => connection === entry.client.connection)
      return found === undefined ? entry : { ...entry, attached: found.index }
    })
  }

  /** The kernel's connection has come from a predecessor. */
  inherit(index: number, connection: number): void {
    this.expected.delete(index)
    const attachment = this.attachments.find(other => other.index === index)
    if (attachment !== undefined) Object.assign(attachment, { connection, reason: '', since: this.clock.wallMs() })
  }

  /** Connects what waits, and can be served. */
  sync(): void {
    for (const attachment of this.attachments) this.tryAgain(attachment)
  }

  /** The kernel waits from now on. */
  stop(): void {
    this.stopped = true
  }

  private tryAgain(attachment: Attachment): void {
    const { index, volume, connection, connecting, leaving } = attachment
    if (connection !== undefined || !this.attachments.includes(attachment)) return
    if (this.stopped || this.expected.has(index) || connecting === true || leaving === true) return
    if (this.options.served(volume) === undefined) {
      attachment.reason = 'its volume is not served here now'
      return
    }
    this.connect(attachment).catch((error: unknown) => {
      const reason = describe(explain(error, deviceOf(index)))
      // The kernel needs a moment to find that its socket is dead.
      if (reason !== attachment.reason && errnoOf(error) !== 'ENOSPC')
        this.options.log.warn(`${deviceOf(index)}: volume ${volume}: ${reason}`)
      attachment.reason = reason
      this.clock.after(attachment.backoff.next(), () => this.tryAgain(attachment))
    })
  }

  private async connect(attachment: Attachment): Promise<void> {
    const { index, volume, identifier, deadSeconds } = attachment
    const exported = this.options.served(volume)
    if (exported === undefined) return
    const reconnect = this.kernel.pid(index) !== undefined
    if (reconnect && !this.ours(attachment)) throw inUse(deviceOf(index), this.kernel.pid(index))
    const { addon } = this.options
    const { device, readOnly } = exported
    attachment.connecting = true
    try {
      const connection = await addon.attachDevice({
        ...{ index, identifier, deadSeconds, reconnect, sizeBytes: device.sizeBytes },
        blockBytes: Math.max(512, device.isBlockDevice ? device.blockMin : 512),
        serverFlags: transmissionFlags({ ...exported, description: '' }, false),
      })
      this.adopt(attachment, connection, readOnly || device.readOnly)
      if (reconnect) attachment.reconnects++
    } finally {
      attachment.connecting = false
    }
    this.kernel.setRequestTimer(index, requestTimerMs)
    const how = reconnect ? 'is connected again' : 'is attached'
    this.options.log.info(`${deviceOf(index)}: volume ${volume} ${how}`)
  }

  private adopt(attachment: Attachment, connection: number, readOnly: boolean): void {
    const { addon, served } = this.options
    const exported = served(attachment.volume)
    // Meanwhile it may have ceased to be served: the kernel waits again.
    if (exported === undefined || connection === 0 || this.stopped || !this.attachments.includes(attachment)) {
      if (connection !== 0) addon.release(connection)
      // Nobody waits for it any more.
      if (!this.attachments.includes(attachment)) addon.detachDevice(attachment.index).catch(() => undefined)
      throw new OperationError('NOT_SERVED', `volume ${attachment.volume} is not served now`)
    }
    const noContexts = { baseAllocationId: 0, replicatedId: 0, dirtyId: 0 }
    const flags = { structuredReplies: false, extendedHeaders: false, ...noContexts, readOnly }
    addon.adopt(connection, exported.volume, flags, new Uint8Array(0))
    Object.assign(attachment, { connection, reason: '', since: this.clock.wallMs() })
    attachment.backoff.reset()
  }

  /** The kernel answers at once, or something is wrong in there. */
  private async inTime<T>(asked: Promise<T>, device: string): Promise<T> {
    let cancel = (): void => undefined
    const late = new Promise<never>((_, reject) => {
      const error = new OperationError('TIMEOUT', `${device}: the kernel does not answer; its log (dmesg) may say why`)
      cancel = this.clock.after(kernelMs, () => reject(error))
    })
    try {
      return await Promise.race([asked, late])
    } finally {
      cancel()
    }
  }

  private heard(event: AddonEvent): void {
    if (event.type !== 'disconnected') return
    const attachment = this.attachments.find(({ connection }) => connection === event.connection)
    if (attachment === undefined) return
    delete attachment.connection
    attachment.since = this.clock.wallMs()
    attachment.reason = event.reason
    if (attachment.leaving === true || this.stopped) return
    const name = `${deviceOf(attachment.index)}: volume ${attachment.volume}`
    if (event.reason === '') {
      // The kernel says goodbye only when it was told to: nbd-client -d, or the like.
      this.options.log.warn(`${name} was disconnected by somebody else; it is detached`)
      this.forget(attachment)
      return
    }
    this.options.log.warn(`${name}: ${event.reason}; the kernel waits`)
    this.clock.after(attachment.backoff.next(), () => this.tryAgain(attachment))
  }

  private ours({ index, identifier }: Attachment): boolean {
    return this.kernel.pid(index) !== undefined && this.kernel.identifier(index) === identifier
  }

  private refuseSecond(volume: string, index: number): void {
    const other = this.attachments.find(attachment => attachment.index === index || attachment.volume === volume)
    if (other !== undefined)
      throw new SafetyRefusal(
        'ATTACHED',
        `attach: volume ${other.volume} is attached as ${deviceOf(other.index)} already`,
      )
    const pid = this.kernel.pid(index)
    if (pid !== undefined) throw inUse(deviceOf(index), pid)
  }

  private guard(): void {
    if (this.guarded !== 'off') return
    const refusals = this.options.addon.guardMemory()
    this.guarded = refusals.length === 0 ? 'on' : 'partial'
    for (const refused of refusals)
      this.options.log.warn(`the data path of attached volumes may have to wait for memory: ${refused}`)
  }

  private forget(attachment: Attachment): void {
    const at = this.attachments.indexOf(attachment)
    if (at >= 0) this.attachments.splice(at, 1)
    try {
      this.save()
    } catch (error) {
      // Not on disk: the next start attaches it again, unless a later change is written.
      this.options.log.error(describe(error))
    }
  }

  private save(): void {
    const attachments = this.attachments.map(({ index, volume, identifier, deadSeconds }) => ({
      ...{ index, volume, identifier, deadSeconds },
    }))
    writeJson(this.path, { version: 1, attachments })
  }

  private stored(): Pick<Attachment, 'index' | 'volume' | 'identifier' | 'deadSeconds'>[] {
    const list = readJson(this.path)?.['attachments'] ?? []
    if (Array.isArray(list) && list.every(isStored)) return list
    throw new OperationError(
      'DAMAGED_FILE',
      `read ${this.path}: it holds something that is no attachment; restore the file, or remove it`,
    )
  }

  private entry(stored: Pick<Attachment, 'index' | 'volume' | 'identifier' | 'deadSeconds'>): Attachment {
    const { index, volume, identifier, deadSeconds } = stored
    const backoff = new Backoff(100, 2_000, Math.random)
    const since = this.clock.wallMs()
    return { index, volume, identifier, deadSeconds, since, reconnects: 0, reason: 'not connected yet', backoff }
  }
}

function isStored(value: unknown): value is Pick<Attachment, 'index' | 'volume' | 'identifier' | 'deadSeconds'> {
  if (typeof value !== 'object' || value === null) return false
  const { index, volume, identifier, deadSeconds } = value as Record<string, unknown>
  return (
    Number.isSafeInteger(index) &&
    typeof volume === 'string' &&
    typeof identifier === 'string' &&
    Number.isSafeInteger(deadSeconds)
  )
}

function indexOf(device: string): number {
  const index = Number(/^\/dev\/nbd(\d{1,7})$/.exec(device)?.[1] ?? NaN)
  if (!(index < indexMax))
    throw new UsageError(`attach: '${device}' is no device of the kernel's NBD client; for example /dev/nbd0`)
  return index
}

const inUse = (device: string, pid: string | undefined): SafetyRefusal =>
  new SafetyRefusal(
    'IN_USE',
    `attach: ${device} is in use (connected by process ${pid ?? '?'}); choose another, or disconnect it: nbd-client -d ${device}`,
  )

/** The kernel's errno as what to do about it. */
function explain(cause: unknown, device: string): unknown {
  switch (errnoOf(cause)) {
    case 'ENOENT':
      return new OperationError('NO_MODULE', `${device}: this kernel's NBD client is not loaded; run: modprobe nbd`, {
        cause,
      })
    case 'EPERM':
    case 'EACCES':
      return new OperationError(
        'NOT_ROOT',
        `${device}: the kernel allows it to root only; run the daemon as root (CAP_SYS_ADMIN)`,
        { cause },
      )
    case 'EBUSY':
      return inUse(device, undefined)
    default:
      return cause
  }
}
