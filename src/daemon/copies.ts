/** The standby's copies that are being exported: each a frozen view with a listener of its own. */
import type { NbdConfig } from '../core/config-types.js'
import { nbdUri, parseAddress } from '../core/units.js'
import { isoTime } from '../standby/history.js'
import type { Viewer } from '../standby/views.js'
import type { ExportEvent, ExportRequest } from './control-protocol.js'
import type { NbdFront } from './nbd-front.js'
import type { StandbyRole, StandbyView } from './roles.js'

export interface Copy extends ExportEvent {
  volume: string
  detached: boolean
  view: StandbyView
  close(): Promise<void>
}

export class Copies {
  private readonly open = new Set<Copy>()

  constructor(
    private readonly front: NbdFront,
    private readonly nbd: NbdConfig,
  ) {}

  async add(standby: StandbyRole, request: ExportRequest, command: string): Promise<Copy> {
    const address = parseAddress(request.listen)
    const view =
      request.saved === ''
        ? await standby.view(request.volume, { ...request, viewer: viewerOf(request, command) })
        : standby.saved(request.volume, request.saved === 'newest' ? '' : request.saved)
    try {
      const nbd = nbdOf(this.nbd, request)
      const listener = this.front.listen(address, nbd, view.exported)
      const copy: Copy = {
        volume: request.volume,
        detached: request.detach,
        view,
        uri: nbdUri(listener.address, view.exported.name, nbd.tls?.required),
        position: view.position,
        ...(view.timeNs === undefined ? {} : { time: isoTime(view.timeNs) }),
        close: async () => {
          if (!this.open.delete(copy)) return
          listener.close()
          await view.close()
        },
      }
      this.open.add(copy)
      return copy
    } catch (error) {
      await view.close()
      throw error
    }
  }

  list(): Copy[] {
    return [...this.open]
  }

  async endDetached(volume: string): Promise<number> {
    const ending = this.list().filter(copy => copy.detached && copy.volume === volume)
    await Promise.all(ending.map(copy => copy.close()))
    return ending.length
  }

  async close(): Promise<void> {
    await Promise.all(this.list().map(copy => copy.close()))
  }
}

function viewerOf({ volume, detach, listen }: ExportRequest, command: string): Viewer {
  const action = `${command} ${volume}`
  const end = detach ? `'understudy export ${volume} --end' ends it` : 'end that command first'
  const what = command === 'export' ? `exported at ${listen}` : `looked at by 'understudy ${action}'`
  return { action, holds: `the copy is being ${what}; ${end}` }
}

/** The daemon's own settings, unless the request has some. */
function nbdOf(config: NbdConfig, request: ExportRequest): NbdConfig {
  if (request.tls === undefined) return config
  const { tls: _ours, ...rest } = config
  return request.tls === null ? rest : { ...rest, tls: request.tls }
}
