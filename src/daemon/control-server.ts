/**
 * Serves control-protocol.ts on a unix socket that only its owner may open. Bounded: connections, body and header
 * sizes, the time a request may take to arrive, and what a reader that does not read makes us hold.
 */
import { rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'

import { describe, UnderstudyError, UsageError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { ListeningSocket } from '../native/listening-socket.js'
import { Fields, toErrorBody } from './control-protocol.js'

/** The answer to a request: one document, or a stream of lines for as long as the caller stays. */
export type Answer = { document: unknown } | { stream: (line: LineSink, signal: AbortSignal) => Promise<void> }
export type LineSink = (line: unknown) => void
export type Handler = (fields: Fields) => Promise<Answer> | Answer
/** "GET /status" -> handler. */
export type Routes = Record<string, Handler>

const connectionsMax = 64
const bodyBytesMax = 64 << 10
const unreadBytesMax = 256 << 10

export class ControlServer {
  private readonly server: Server

  private constructor(
    private readonly socket: ListeningSocket,
    private readonly path: string,
    private readonly routes: Routes,
    private readonly log: Logger,
  ) {
    this.server = createServer(
      { maxHeaderSize: 8 << 10, headersTimeout: 5_000, requestTimeout: 10_000 },
      (request, response) => {
        void this.answer(request, response)
      },
    )
    this.server.maxConnections = connectionsMax
    this.server.keepAliveTimeout = 1_000
  }

  /**
   * The caller holds the lock of the state directory, so that a socket file found at `path` is nobody's. `inherited`: a
   * socket that listens there already.
   */
  static async open(path: string, routes: Routes, log: Logger, inherited?: ListeningSocket): Promise<ControlServer> {
    if (inherited === undefined) rmSync(path, { force: true })
    const socket = inherited ?? ListeningSocket.bind({ kind: 'unix', path, mode: 0o600 }, `control socket ${path}`)
    const control = new ControlServer(socket, path, routes, log)
    await socket.serve(control.server)
    control.server.on('error', error => log.error(`control socket: ${describe(error)}`))
    return control
  }

  /** Open connections (waits, exports) end. */
  async close(): Promise<void> {
    await this.giveUp(0)
    this.socket.close()
    rmSync(this.path, { force: true })
  }

  /** As close(), but the socket goes on listening: the caller's from now on. */
  giveUp(graceMs: number): Promise<number> {
    return this.socket.giveUp(this.server, graceMs)
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const abort = new AbortController()
    response.once('close', () => abort.abort())
    response.on('error', () => abort.abort())
    try {
      const handler = this.route(request)
      const answer = await handler(new Fields(await readBody(request)))
      if ('document' in answer) return sendDocument(response, 200, answer.document)
      response.writeHead(200, { 'content-type': 'application/x-ndjson' })
      response.flushHeaders()
      await answer.stream(line => sendLine(response, line), abort.signal)
      response.end()
    } catch (error) {
      if (!(error instanceof UnderstudyError))
        this.log.error(`control: ${request.method} ${request.url}: ${describe(error)}`)
      if (response.headersSent) response.end(JSON.stringify(toErrorBody(error)) + '\n')
      else sendDocument(response, httpStatus(error), toErrorBody(error))
    }
  }

  private route(request: IncomingMessage): Handler {
    const key = `${request.method ?? ''} ${(request.url ?? '').split('?', 1)[0] ?? ''}`
    const handler = Object.hasOwn(this.routes, key) ? this.routes[key] : undefined
    if (handler === undefined)
      throw new UnderstudyError(
        'NO_ROUTE',
        `control: there is no ${key.slice(0, 100)}; is the daemon of another version?`,
      )
    return handler
  }
}

async function readBody(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > bodyBytesMax) throw new UsageError(`request: the body is larger than ${bodyBytesMax} bytes`)
    chunks.push(chunk)
  }
  if (bytes === 0) return {}
  try {
    const body: unknown = JSON.parse(Buffer.concat(chunks).toString('utf8'))
    if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body as Record<string, unknown>
  } catch (error) {
    throw new UsageError(`request: the body is not JSON: ${describe(error)}`, { cause: error })
  }
  throw new UsageError('request: the body must be a JSON object')
}

function sendDocument(response: ServerResponse, status: number, document: unknown): void {
  const text = JSON.stringify(document) + '\n'
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
  response.end(text)
}

function sendLine(response: ServerResponse, line: unknown): void {
  if (response.writableLength > unreadBytesMax) {
    response.destroy()
    return
  }
  response.write(JSON.stringify(line) + '\n')
}

function httpStatus(error: unknown): number {
  if (!(error instanceof UnderstudyError)) return 500
  if (error.code === 'NO_ROUTE' || error.code === 'NO_VOLUME') return 404
  if (error.exitCode === 2) return 400
  return error.exitCode === 3 ? 409 : 500
}
