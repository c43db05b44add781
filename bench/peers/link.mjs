// The link alone (link/): native/quic, TLS over TCP, TCP in clear text; and another QUIC program, where there is one.
import { spawnSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { mkdirSync, readFileSync } from 'node:fs'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freeUdpPort } from '../lib/files.mjs'
import { run, start } from '../lib/processes.mjs'

const program = fileURLToPath(new URL('../../build/bench/link', import.meta.url))
const nothing = { processes: {}, settled: async () => null, stop: async () => undefined }

/** `args`: behind the seconds. */
export const startLink =
  (mode, ...args) =>
  async () => ({
    ...nothing,
    measure: async (_load, seconds) => {
      const found = JSON.parse(await run(program, [mode, String(seconds), ...args.map(String)], seconds + 70))
      return { ...found, cpuPerGiB: found.sendCpuPerGiB + found.receiveCpuPerGiB }
    },
  })

/**
 * UNDERSTUDY_QUIC_PROTOTYPE names a program that takes `server|client --port --cert --key --peer-fp --bytes --mtu` and whose
 * sides print `recv: ... = N MB/s cpu ... (N s/GiB)` and `send: ...`: the throw-away code that this design was tried with. Not part of the project.
 */
export const startPrototype =
  packetBytes =>
  async ({ folder }) => {
    const prototype = process.env.UNDERSTUDY_QUIC_PROTOTYPE
    if (prototype === undefined) return null
    const [server, client] = ['server', 'client'].map(name => certificate(join(folder, 'prototype'), name))
    return {
      ...nothing,
      async measure(_load, seconds) {
        const port = await freeUdpPort()
        const both = ['--port', port, '--bytes', Math.round(seconds * 1.5e9), '--mtu', packetBytes]
        const flags = (own, peer) =>
          ['--cert', own.path, '--key', own.key, '--peer-fp', peer.fingerprint, ...both].map(String)
        const receiver = start(prototype, ['server', ...flags(server, client)])
        const sent = await run(prototype, ['client', ...flags(client, server)], seconds * 60)
        await receiver.stop()
        const [, rate, receiving] = /recv: .* = (\d+) MB\/s cpu .* \((\S+) s\/GiB/.exec(receiver.output()) ?? []
        const [, sending] = /send: .* \((\S+) s\/GiB/.exec(sent) ?? []
        if (rate === undefined || sending === undefined) throw new Error(`${prototype}: ${receiver.output()}${sent}`)
        return { rate: Number(rate) * 1e6, cpuPerGiB: Number(receiving) + Number(sending), packetBytes }
      },
    }
  }

function certificate(folder, name) {
  mkdirSync(folder, { recursive: true })
  const [path, key] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)]
  const args = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-days',
    '2',
    '-subj',
    `/CN=${name}`,
  ]
  const made = spawnSync('openssl', [...args, '-keyout', key, '-out', path], { encoding: 'utf8' })
  if (made.status !== 0) throw new Error(`openssl: ${made.stderr}`)
  const { raw } = new X509Certificate(readFileSync(path))
  return { path, key, fingerprint: createHash('sha256').update(raw).digest('hex') }
}
