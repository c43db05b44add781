// A process whose worker thread starts the addon, listens and is terminated, TIMES over. Prints how many times.
import { randomBytes } from 'node:crypto'
import { truncateSync, writeFileSync } from 'node:fs'
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'

const [, , folder, times] = process.argv

if (isMainThread) {
  for (let time = 0; time < Number(times); time += 1) {
    const worker = new Worker(new URL(import.meta.url), { workerData: { folder, time }, argv: [folder, times] })
    await new Promise((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
    })
    await worker.terminate()
  }
  console.log(`terminated ${times} times`)
} else {
  const { addon } = await import('../../dist/native/binding.js')
  const native = addon()
  native.start(() => undefined)
  const identityPem = native.createIdentity()
  const { port } = native.openEndpoint({ identityPem, listen: { host: '127.0.0.1', port: 0 }, idleTimeoutMs: 1000 })
  // Traffic that keeps the link thread inside GnuTLS: a session with ourselves.
  const id = native.identityFingerprint(identityPem)
  native.connect(native.openEndpoint({ identityPem, idleTimeoutMs: 1000 }).endpoint, '127.0.0.1', port, id)
  const path = `${workerData.folder}/worker-${workerData.time}.img`
  writeFileSync(path, '')
  truncateSync(path, 1 << 20)
  native.openGroup({
    name: 'g',
    volumes: [{ name: 'v', device: { path }, readOnly: false }],
    incarnation: randomBytes(8).readBigUInt64LE(),
    durability: 'flush',
    onStandbyLoss: 'continue',
    logBytes: 80 << 20,
    peerTimeoutMs: 1000,
    replicated: false,
  })
  native.listen({ kind: 'unix', path: `${workerData.folder}/worker-${workerData.time}.sock` })
  parentPort.postMessage('up')
}
