/** Talks to the daemon that runs on a state directory. An error of the daemon arrives as UnderstudyError, exit code kept. */
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import { createInterface } from 'node:readline'

import { describe, errnoOf, OperationError } from '../core/errors.js'
import type { StatusDocument } from '../core/status-types.js'
import { fromErrorBody, type HealthReply } from './control-protocol.js'
import { controlSocketPath } from './state-directory.js'

const documentBytesMax = 16 << 20

export class ControlClient {
  private readonly socketPath: string

  constructor(private readonly state: string) {
    this.socketPath = controlSocketPath(state)
  }

  status(signal?: AbortSignal): Promise<StatusDocument> {
    return this.call<StatusDocument>('GET', '/status', undefined, signal)
  }

  health(): Promise<HealthReply> {
    return this.call<HealthReply>('GET', '/health')
  }

  get<T>(path: string): Promise<T> {
    return this.call<T>('GET', path)
  }

  post<T>(path: string, body: object = {}, signal?: AbortSignal): Promise<T> {
    return this.call<T>('POST', path, body, signal)
  }

  private async call<T>(method: string, path: string, body?: object, signal?: AbortSignal): Promise<T> {
    const text = await readAll(await this.open(method, path, body, signal))
    const document = parseDocument(text)
    const error = fromErrorBody(document)
    if (error !== undefined) throw error
    return document as T
  }

  /** Yields the lines of a stream. Returning from the loop, or aborting the signal, closes the connection. */
  async *stream<T>(path: string, body: object, signal?: AbortSignal): AsyncGenerator<T> {
    const response = await this.open('POST', path, body, signal)
    try {
      for await (const line of createInterface({ input: response, crlfDelay: Infinity })) {
        if (line === '') continue
        const document = parseDocument(line)
        const error = fromErrorBody(document)
        if (error !== undefined) throw error
        yield document as T
      }
    } catch (error) {
      if (signal?.aborted !== true) throw this.explain(error)
    } finally {
      response.destroy()
    }
  }

  private open(method: string, path: string, body?: object, signal?: AbortSignal): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const text = body === undefined ? '' : JSON.stringify(body)
      const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
      const outgoing: ClientRequest = request({
        socketPath: this.socketPath,
        method,
        path,
        headers,
        agent: false,
        ...(signal && { signal }),
      })
      outgoing.once('response', resolve)
      outgoing.once('error', error => reject(this.explain(error)))
      outgoing.end(text)
    })
  }

  private explain(error: unknown): Error {
    switch (errnoOf(error)) {
      case 'ENOENT':
      case 'ECONNREFUSED':
        return new OperationError(
          'NO_DAEMON',
          `no daemon runs on state directory ${this.state}; start one ('understudy run'), or name its directory with --state`,
          { cause: error },
        )
      case 'EACCES':
        return new OperationError(
          'NO_ACCESS',
          `control socket ${this.socketPath}: only the user who runs the daemon may use it`,
          { cause: error },
        )
      case 'ECONNRESET':
      case 'EPIPE':
        return new OperationError('DAEMON_LEFT', `the daemon on state directory ${this.state} ended meanwhile`, {
          cause: error,
        })
      default:
        return error instanceof Error ? error : new OperationError('CONTROL', describe(error))
    }
  }
}

async function readAll(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > documentBytesMax)
      throw new OperationError('CONTROL', `the daemon's answer is larger than ${documentBytesMax} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parseDocument(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new OperationError('CONTROL', `the daemon's answer is not JSON: '${text.slice(0, 80)}'`, { cause: error })
  }
}
