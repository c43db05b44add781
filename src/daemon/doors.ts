/** The doors for operators: the control socket and /metrics. Clients of volumes come by nbd-front.ts. */
import { rmSync } from 'node:fs'

import type { Config } from '../core/config-types.js'
import type { Logger } from '../core/log.js'
import { createMetricsRegistry } from '../metrics/registry.js'
import { type MetricsServer, startMetricsServer } from '../metrics/server.js'
import { CounterReader } from '../native/counters.js'
import { ListeningSocket } from '../native/listening-socket.js'
import { controlRoutes } from './control-routes.js'
import { ControlServer } from './control-server.js'
import type { Daemon } from './daemon.js'
import { metricsSource } from './metrics-source.js'
import { controlSocketPath } from './state-directory.js'

/** Descriptors of listening sockets. */
export interface DoorSockets {
  control: number
  metrics?: number
}

/** Clients of volumes wait meanwhile. */
const graceMs = 50

export class Doors {
  private control: ControlServer | undefined
  private metrics: MetricsServer | undefined

  get metricsAddress(): MetricsServer['address'] | undefined {
    return this.metrics?.address
  }

  /** `inherited`: sockets that listen already. */
  async open(daemon: Daemon, config: Config, log: Logger, inherited?: DoorSockets): Promise<void> {
    const registry = createMetricsRegistry(metricsSource(daemon, new CounterReader(daemon.options.addon)))
    const socketOf = (fd: number | undefined): ListeningSocket[] => (fd === undefined ? [] : [new ListeningSocket(fd)])
    if (config.metrics !== undefined) {
      const [socket] = socketOf(inherited?.metrics)
      this.metrics = await startMetricsServer(config.metrics, registry, log.area('metrics'), socket)
    }
    const [socket] = socketOf(inherited?.control)
    const path = controlSocketPath(config.state)
    this.control = await ControlServer.open(path, controlRoutes(daemon), log.area('control'), socket)
  }

  async close(): Promise<void> {
    await this.metrics?.close()
    await this.control?.close()
  }

  /** Nobody is answered any more; who comes waits for whoever gets the sockets. Undefined: they were never open. */
  async giveUp(): Promise<DoorSockets | undefined> {
    const [metrics, control] = await Promise.all([this.metrics?.giveUp(graceMs), this.control?.giveUp(graceMs)])
    this.metrics = this.control = undefined
    if (control === undefined) return undefined
    return { control, ...(metrics === undefined ? {} : { metrics }) }
  }

  /** Synchronous: the file of a socket that is ours. */
  cleanUp(config: Config): void {
    if (this.control !== undefined) rmSync(controlSocketPath(config.state), { force: true })
  }
}
