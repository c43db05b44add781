/**
 * Loads @fails-components/webtransport; the part of it that we use. Only in the worker: the package reports on the
 * console that its binary for HTTP/3 is not there.
 */

export interface ByteStream {
  readable: ReadableStream<Uint8Array>
  writable: WritableStream<Uint8Array>
}

export interface WebTransportSession {
  ready: Promise<unknown>
  closed: Promise<unknown>
  incomingBidirectionalStreams: ReadableStream<ByteStream>
  createBidirectionalStream(): Promise<ByteStream>
  close(info?: { closeCode: number; reason: string }): void
}

export interface WebTransportServer {
  startServer(): void
  stopServer(): void
  ready: Promise<unknown>
  address(): { port: number } | null
  sessionStream(path: string): ReadableStream<WebTransportSession>
}

interface ServerOptions {
  host: string
  port: number
  secret: string
  cert: string
  privKey: string
  initialStreamFlowControlWindow: number
  initialSessionFlowControlWindow: number
}

export interface WebTransportLibrary {
  WebTransport: new (url: string, options: object) => WebTransportSession
  Http2Server: new (options: ServerOptions) => WebTransportServer
}

/** The path of a tunnel's session. */
export const tunnelPath = '/understudy'

let loaded: Promise<WebTransportLibrary> | undefined

export function loadLibrary(): Promise<WebTransportLibrary> {
  return (loaded ??= import('@fails-components/webtransport') as unknown as Promise<WebTransportLibrary>)
}
