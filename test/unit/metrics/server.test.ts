import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import t, { type Test } from 'tap'
import { createLogger } from '../../../src/core/log.js'
import { createMetricsRegistry, type MetricsRegistry } from '../../../src/metrics/registry.js'
import { startMetricsServer, type MetricsServer } from '../../../src/metrics/server.js'
import { promtool } from '../../support/prometheus.js'
import { FakeSource } from './fake-source.js'

const lines: string[] = []
const logger = createLogger('metrics', line => lines.push(line))

async function serve(
  t: Test,
  registry: MetricsRegistry = createMetricsRegistry(new FakeSource()),
): Promise<MetricsServer> {
  const server = await startMetricsServer({ host: '127.0.0.1', port: 0 }, registry, logger)
  t.teardown(() => server.close())
  return server
}

interface Answer {
  status: number | undefined
  headers: NodeJS.Dict<string | string[]>
  body: string
}

async function ask(server: MetricsServer, path: string, method = 'GET'): Promise<Answer> {
  const asked = request({ ...server.address, path, method, agent: false, timeout: 60_000 }).end()
  const [response] = (await once(asked, 'response')) as [IncomingMessage]
  let body = ''
  for await (const part of response) body += String(part)
  return { status: response.statusCode, headers: response.headers, body }
}

t.test('/metrics is a scrape that promtool has nothing to say about', async t => {
  const { status, headers, body } = await ask(await serve(t), '/metrics')
  t.equal(status, 200)
  t.equal(headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
  t.same(promtool(['check', 'metrics'], body), { status: 0, output: '' })
})

t.test('/healthz says ok; other paths and methods are refused with one line', async t => {
  const server = await serve(t)
  t.match(await ask(server, '/healthz'), { status: 200, body: 'ok\n' })
  t.match(await ask(server, '/metrics?x=1'), { status: 200 })
  t.match(await ask(server, '/'), { status: 404, body: 'not found: there are /metrics and /healthz\n' })
  t.match(await ask(server, '/metrics', 'POST'), { status: 405, body: 'method not allowed: only GET\n' })
})

t.test('a scrape that fails is answered 500 with one line, and logged', async t => {
  const server = await serve(t, {
    contentType: 'text/plain',
    scrape: () => Promise.reject(new Error('status: no page 3\n at x')),
  })
  t.match(await ask(server, '/metrics'), { status: 500, body: 'scrape: status: no page 3 at x\n' })
  t.match(lines.at(-1), /error metrics: scrape: status: no page 3/)
  t.match(await ask(server, '/healthz'), { status: 200 }, 'and the server goes on')
})

t.test('a port in use is refused with its address; nothing is left listening', async t => {
  const server = await serve(t)
  const { port } = server.address
  await t.rejects(startMetricsServer(server.address, createMetricsRegistry(new FakeSource()), logger), {
    name: 'NativeError',
    code: 'EADDRINUSE',
    exitCode: 1,
    message: `metrics: listen on 127.0.0.1:${port}: the address is in use by another program; choose another one or stop that program (EADDRINUSE)`,
  })
})

t.test('garbage, headers without end and half-open connections cost nothing but their socket', async t => {
  const server = await serve(t)
  const garbage = await open(t, server)
  garbage.write('\x16\x03\x01 this is not HTTP\r\n\r\n')
  t.match(await readAll(garbage), /^HTTP\/1\.1 400 /)
  const large = await open(t, server)
  large.write(`GET /metrics HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n`)
  t.match(await readAll(large), /^HTTP\/1\.1 400 /)
  const halfOpen = await Promise.all(Array.from({ length: 20 }, () => open(t, server)))
  halfOpen.forEach(socket => socket.write('GET /metrics HT'))
  t.match(await ask(server, '/healthz'), { status: 200 }, 'others are served meanwhile')
})

t.test('more connections than the maximum are closed, and those there are served on', async t => {
  const server = await serve(t)
  const sockets = await Promise.all(Array.from({ length: 80 }, () => open(t, server)))
  const closed = () => sockets.filter(socket => socket.destroyed || socket.readableEnded).length
  sockets.forEach(socket => socket.resume())
  for (let wait = 0; wait < 3000 && closed() < 16; wait++) await new Promise(resolve => setTimeout(resolve, 20))
  t.equal(closed(), 16)
})

t.test('close ends idle connections and frees the port', async t => {
  const server = await serve(t)
  const idle = await open(t, server)
  const ended = once(idle, 'close')
  await server.close()
  await ended
  const again = await startMetricsServer(server.address, createMetricsRegistry(new FakeSource()), logger)
  await again.close()
  t.pass('the same port could be listened on')
})

async function open(t: Test, { address }: MetricsServer): Promise<Socket> {
  const socket = connect(address)
  socket.on('error', () => undefined) // a reset is one way to be closed
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  return socket
}

async function readAll(socket: Socket): Promise<string> {
  let text = ''
  socket.on('data', data => (text += data.toString('latin1')))
  if (!socket.destroyed) await once(socket, 'close')
  return text
}
