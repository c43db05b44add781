/**
 * A listening socket that outlives the node server on it, so that it can be handed to another process: node gets a
 * duplicate, and closing its server leaves clients waiting in the kernel's queue.
 */
import { closeSync } from 'node:fs'
import type { Server } from 'node:http'

import { NativeError } from '../core/errors.js'
import { addon, type ListenAddress } from './binding.js'

export class ListeningSocket {
  /** `action` names it when it cannot be had. */
  static bind(address: ListenAddress, action: string): ListeningSocket {
    try {
      return new ListeningSocket(addon().listeningSocket(address))
    } catch (cause) {
      throw new NativeError(action, cause)
    }
  }

  #closed = false

  constructor(readonly fd: number) {}

  serve(server: Server): Promise<void> {
    return new Promise((resolve, reject) => {
      server.once('error', reject)
      server.listen({ fd: addon().duplicate(this.fd) }, () => {
        server.off('error', reject)
        resolve()
      })
    })
  }

  /**
   * The server stops, the socket listens on: for whoever gets it. Requests that have begun may take a moment to end, so
   * that a short one is not cut off; connections that are kept for the next one are closed at once.
   */
  giveUp(server: Server, graceMs: number): Promise<number> {
    return new Promise(resolve => {
      const timer = setTimeout(() => server.closeAllConnections(), graceMs)
      server.close(() => {
        clearTimeout(timer)
        resolve(this.fd)
      })
      server.closeIdleConnections()
    })
  }

  close(): void {
    if (!this.#closed) closeSync(this.fd)
    this.#closed = true
  }
}
