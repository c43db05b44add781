/** The worker's end: carries out what the daemon asks for (tunnel-messages.ts). Runs in a thread of its own. */
import { parentPort, workerData } from 'node:worker_threads'

import { describe } from '../../core/errors.js'
import { IncomingTunnels } from './incoming.js'
import { runTunnel, TunnelError } from './outgoing.js'
import type { FromWorker, ToWorker, TunnelIdentity } from './tunnel-messages.js'

let identity = workerData as TunnelIdentity
const outgoing = new Map<number, AbortController>()
let incoming: IncomingTunnels | undefined
let allowed: string[] = []

const tell = (message: FromWorker): void => parentPort?.postMessage(message)

// The package leaves promises behind that nobody waits for. A tunnel that is broken ends by its own reads and writes.
process.on('unhandledRejection', () => undefined)

parentPort?.on('message', (message: ToWorker) => {
  if (message.type === 'open') void open(message)
  else if (message.type === 'close') outgoing.get(message.tunnel)?.abort()
  else if (message.type === 'listen') void listen(message)
  else if (message.type === 'identity') identity = message.identity
  else {
    allowed = message.allowed
    incoming?.allow(allowed)
  }
})

async function open({ tunnel, peer }: Extract<ToWorker, { type: 'open' }>): Promise<void> {
  const stop = new AbortController()
  outgoing.set(tunnel, stop)
  try {
    await runTunnel(peer, identity, stop.signal, port => tell({ type: 'opened', tunnel, port }))
  } catch (error) {
    const reason = error instanceof TunnelError ? error.reason : 'peer'
    tell({ type: 'ended', tunnel, reason, text: describe(error) })
  } finally {
    outgoing.delete(tunnel)
  }
}

async function listen({ address, target, ...rest }: Extract<ToWorker, { type: 'listen' }>): Promise<void> {
  allowed = rest.allowed
  try {
    const { tunnels, port } = await IncomingTunnels.listen({
      address,
      target,
      identity,
      rejected: (reason, text) => tell({ type: 'rejected', reason, text }),
    })
    incoming = tunnels
    tunnels.allow(allowed)
    tell({ type: 'listening', port })
  } catch (error) {
    tell({ type: 'listen-failed', message: describe(error) })
  }
}
