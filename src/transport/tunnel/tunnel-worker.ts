/**
 * The daemon's handle on the worker that runs the tunnels. It is started when first needed: the package and a thread
 * cost some 40 MB. When it dies every tunnel has ended; the next use starts another.
 */
import { Worker } from 'node:worker_threads'

import type { FromWorker, ToWorker, TunnelIdentity } from './tunnel-messages.js'

export class TunnelWorker {
  #worker: Worker | undefined

  constructor(
    private readonly identity: () => TunnelIdentity,
    private readonly heard: (message: FromWorker) => void,
    private readonly died: (why: string) => void,
  ) {}

  tell(message: ToWorker): void {
    this.#started().postMessage(message)
  }

  renewIdentity(): void {
    this.#worker?.postMessage({ type: 'identity', identity: this.identity() } satisfies ToWorker)
  }

  /** Ends all tunnels. Resolves when the worker's sockets are closed. */
  async stop(): Promise<void> {
    const worker = this.#worker
    this.#worker = undefined
    await worker?.terminate()
  }

  get running(): boolean {
    return this.#worker !== undefined
  }

  #started(): Worker {
    if (this.#worker !== undefined) return this.#worker
    // Its console is the package's: nothing on it is for the daemon's log.
    const options = { workerData: this.identity(), stdout: true, stderr: true }
    const worker = new Worker(new URL('./worker.js', import.meta.url), options)
    worker.stdout.resume()
    worker.stderr.resume()
    const gone = (why: string): void => {
      if (this.#worker !== worker) return
      this.#worker = undefined
      this.died(why)
    }
    worker.on('message', (message: FromWorker) => {
      if (this.#worker === worker) this.heard(message)
    })
    worker.on('error', error => gone(error.message))
    worker.on('exit', () => gone('its worker has ended'))
    this.#worker = worker
    return worker
  }
}
