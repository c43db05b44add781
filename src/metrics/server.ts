/**
 * GET /metrics and GET /healthz over HTTP, for both roles. Bounded: connections, header size and the time for each part
 * of a request have a maximum, so that a stalling client costs a socket for some seconds and nothing else.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { describe } from '../core/errors.js'
import { createLogger, type Logger } from '../core/log.js'
import type { HostPort } from '../core/units.js'
import { ListeningSocket } from '../native/listening-socket.js'
import type { MetricsRegistry } from './registry.js'

const connectionsMax = 64
const headerBytesMax = 8 << 10
const headersTimeoutMs = 5_000
const requestTimeoutMs = 10_000
const idleTimeoutMs = 15_000

export interface MetricsServer {
  /** Where it listens; the port is the real one where 0 was asked for. */
  readonly address: HostPort
  /** Stops listening and closes every connection. */
  close(): Promise<void>
  /** As close(), but the socket goes on listening: the caller's from now on. */
  giveUp(graceMs: number): Promise<number>
}

/**
 * Fails with a NativeError that names the address (exit code 1) when it cannot listen there. `inherited`: a socket that
 * does already.
 */
export async function startMetricsServer(
  address: HostPort,
  registry: MetricsRegistry,
  logger: Logger = createLogger('metrics'),
  inherited?: ListeningSocket,
): Promise<MetricsServer> {
  const { host, port: wanted } = address
  const socket = inherited ?? ListeningSocket.bind({ kind: 'tcp', ...address }, `metrics: listen on ${host}:${wanted}`)
  const server = createServer(
    {
      maxHeaderSize: headerBytesMax,
      headersTimeout: headersTimeoutMs,
      requestTimeout: requestTimeoutMs,
      connectionsCheckingInterval: 1_000,
    },
    (request, response) => void answer(request, response, registry, logger),
  )
  server.maxConnections = connectionsMax
  server.keepAliveTimeout = idleTimeoutMs
  server.setTimeout(idleTimeoutMs, socket => socket.destroy()) // also a client that does not read its answer
  server.on('clientError', refuseGarbage)
  await socket.serve(server)
  server.on('error', error => logger.error(`accept: ${describe(error)}`))
  const { port } = server.address() as AddressInfo
  return {
    address: { host, port },
    close: async () => {
      await socket.giveUp(server, 0)
      socket.close()
    },
    giveUp: graceMs => socket.giveUp(server, graceMs),
  }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  registry: MetricsRegistry,
  logger: Logger,
): Promise<void> {
  const path = (request.url ?? '/').split('?', 1)[0]
  if (path !== '/metrics' && path !== '/healthz')
    return reply(response, 404, 'not found: there are /metrics and /healthz')
  if (request.method !== 'GET') {
    response.setHeader('Allow', 'GET')
    return reply(response, 405, 'method not allowed: only GET')
  }
  if (path === '/healthz') return reply(response, 200, 'ok')
  try {
    const text = await registry.scrape()
    response.setHeader('Content-Type', registry.contentType)
    response.setHeader('Content-Length', Buffer.byteLength(text))
    response.end(text)
  } catch (error) {
    logger.error(`scrape: ${describe(error)}`)
    reply(response, 500, `scrape: ${describe(error)}`)
  }
}

function reply(response: ServerResponse, status: number, line: string): void {
  response.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(line) + 1,
    // What a refused request may still send is not waited for.
    ...(status === 200 ? {} : { Connection: 'close' }),
  })
  response.end(`${line}\n`)
}

/** Not HTTP, or headers too large or too late: one line if the socket still takes it. */
function refuseGarbage(_error: Error, socket: Socket): void {
  if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
  socket.destroySoon()
}
