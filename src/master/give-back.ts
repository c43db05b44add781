/**
 * What this host has acknowledged and lost is given back by the standby, before a client is served.
 *
 * Under `received` a reply leaves once the standby has the write in its memory; here it may be in the page cache only. A
 * host that loses its power has lost it, and the standby has not: to repair the standby from this device would destroy
 * the only copy. So the group's file says `paired` while the standby has everything that was acknowledged
 * (native/engine/pairing.h), and during which start of this host's kernel:
 *
 *   paired, the same start  a process has died and the page cache has not: the devices are flushed, nothing is owed
 *   paired, another one     owed: what the maps mark is compared, and taken from the standby where it differs
 *   not paired              the standby may lack what was acknowledged without it: this device is the truth
 *
 * Guarantees: `paired` is gone from the disk before the first reply that the standby may lack, and before the first
 * client of a start is served. Does not: move bytes (native/engine/give-back.cc).
 */
import { removeDurably } from '../core/atomic-file.js'
import { describe } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { Welcome } from '../transport/messages.js'
import type { AttachDecision } from './attach-decision.js'
import type { GroupRecord } from './group-file.js'

export interface GiveBackOptions {
  record: GroupRecord
  save: () => void
  bootId: string
  log: Logger
  volumes: string
  /** The dirty maps' files. */
  maps: string[]
  /** Of the devices: everything written is on stable storage. */
  flush: () => Promise<void>
  /** The engine may answer without the standby. */
  part: () => void
  /** Clients may be served now. */
  settled: () => void
}

const choices =
  "bring the standby back; or 'understudy promote' it there, which has everything; or 'understudy invalidate' here serves this device as it is and overwrites what only the standby has"

export class GiveBack {
  readonly #options: GiveBackOptions
  #isOwed = false
  #failure = ''
  #hasSettled: () => void = () => undefined
  /** Resolves when what was owed is settled; never when nothing was. */
  readonly settled = new Promise<void>(resolve => (this.#hasSettled = resolve))

  constructor(options: GiveBackOptions) {
    this.#options = options
  }

  /** Clients are not to be served: the devices may lack what was acknowledged. */
  get isOwed(): boolean {
    return this.#isOwed
  }

  /** Why, and what the choices are; '' when nothing is owed. */
  get reason(): string {
    if (!this.#isOwed) return ''
    const { volumes } = this.#options
    const what =
      this.#failure === ''
        ? `this host went down while the standby had every acknowledged write: it gives back what this side has lost, and no client of ${volumes} is served before`
        : `what the standby has could not be given back (${this.#failure}), and no client of ${volumes} is served`
    return `${what}; ${choices}`
  }

  /** Before anybody is served. `doubt`: why it is not known where the copy may differ; '': the dirty maps say it. */
  async open(doubt: string): Promise<void> {
    const { record, bootId, log, flush } = this.#options
    if (record.paired === undefined) return
    if (record.paired === bootId) {
      try {
        await flush()
        this.#settle()
        return
      } catch (error) {
        log.error(`${describe(error)}: nobody knows what the device has of the last writes`)
      }
    }
    if (doubt !== '') {
      log.error(`what was acknowledged last may be on the standby only, but ${doubt}: this side's device counts`)
      this.#settle()
      return
    }
    this.#isOwed = true
    log.warn(this.reason)
  }

  /** Whether the attachment is to take what differs. Throws when the standby does not know how. */
  asks(welcome: Pick<Welcome, 'givesBack' | 'initial'>, { allDirty }: Pick<AttachDecision, 'allDirty'>): boolean {
    if (!this.#isOwed) return false
    if (!allDirty && !welcome.initial) {
      if (welcome.givesBack) return true
      throw new Error('its program is older and cannot give back what this host has lost; upgrade it')
    }
    this.#options.log.error('the standby has not the copy that had every acknowledged write: this device counts')
    this.drop()
    return false
  }

  /** The step in which the standby gave back is complete, and the devices are flushed. */
  complete(bytes: bigint): void {
    if (!this.#isOwed) return
    this.#options.log.info(`the standby has given back ${bytes} bytes; clients are served`)
    this.drop()
  }

  failed(message: string): void {
    if (this.#isOwed) this.#failure = message
  }

  /** This device counts from here on. */
  drop(): void {
    if (!this.#isOwed) return
    this.#settle()
    this.#isOwed = false
    this.#failure = ''
    this.#options.settled()
    this.#hasSettled()
  }

  /** The engine's news: the standby has everything that was acknowledged; or it will not, and nobody is answered until part(). */
  pairing(paired: boolean): void {
    const { record, save, bootId, log, maps, part, flush } = this.#options
    try {
      if (paired) record.paired = bootId
      else delete record.paired
      save()
    } catch (error) {
      log.error(describe(error))
      // Nobody's I/O waits for this disk: without the maps the next start believes neither side's part of it.
      if (!paired) for (const map of maps) tryRemove(map, log)
    }
    if (paired) return
    part()
    // From now on what was acknowledged before has to survive here, whatever becomes of the standby's copy.
    flush().catch((error: unknown) => log.error(describe(error)))
  }

  #settle(): void {
    const { record, save } = this.#options
    delete record.paired
    save()
  }
}

function tryRemove(path: string, log: Logger): void {
  try {
    removeDurably(path)
  } catch (error) {
    log.error(describe(error))
  }
}
