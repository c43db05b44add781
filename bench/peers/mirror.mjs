// QEMU's storage daemon with blockdev-mirror in write-blocking mode to a second nbdkit: a reply means both have it.
import { closeSync, openSync, truncateSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { listening, start } from '../lib/processes.mjs'
import { startNbdkit } from './nbdkit.mjs'

export async function startMirror(folder, sizeBytes) {
  const target = await startNbdkit(folder, sizeBytes, 'mirror-target')
  const [image, socket, monitor] = ['mirror.img', 'mirror.sock', 'mirror.qmp'].map(name => join(folder, name))
  closeSync(openSync(image, 'w'))
  truncateSync(image, sizeBytes)
  const program = start('qemu-storage-daemon', [
    '--blockdev', `file,node-name=file,filename=${image},aio=io_uring`,
    '--blockdev', 'raw,node-name=source,file=file',
    '--blockdev', `nbd,node-name=target,server.type=unix,server.path=${target.socket},export=`,
    '--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=0`,
    '--chardev', `socket,path=${monitor},server=on,wait=off,id=monitor`,
    '--monitor', 'chardev=monitor',
  ]) // prettier-ignore
  await listening(socket, program)
  const qmp = await openMonitor(monitor)
  await qmp.ask('qmp_capabilities')
  await qmp.ask('blockdev-mirror', {
    'job-id': 'mirror', device: 'source', target: 'target', sync: 'full', 'copy-mode': 'write-blocking', 'filter-node-name': 'mirrored',
  }) // prettier-ignore
  await qmp.ready()
  await qmp.ask('block-export-add', { type: 'nbd', id: 'export', 'node-name': 'mirrored', name: 'x', writable: true })
  return {
    uri: `nbd+unix:///x?socket=${socket}`,
    settled: async () => null,
    async stop() {
      qmp.close()
      await program.stop()
      await target.stop()
    },
  }
}

/** A QMP connection: ask() resolves with the answer, ready() when the job copies nothing but new writes. */
async function openMonitor(path) {
  const socket = connect(path)
  const lines = createInterface({ input: socket })
  const waiting = []
  let greeted
  const greeting = new Promise(resolve => (greeted = resolve))
  lines.on('line', line => {
    const message = JSON.parse(line)
    if ('QMP' in message) greeted()
    else if ('return' in message) waiting.shift()?.resolve(message.return)
    else if ('error' in message) waiting.shift()?.reject(new Error(`QEMU: ${message.error.desc}`))
  })
  await greeting
  const ask = (execute, args) =>
    new Promise((resolve, reject) => {
      waiting.push({ resolve, reject })
      socket.write(JSON.stringify({ execute, arguments: args }) + '\n')
    })
  const ready = async () => {
    for (let attempt = 0; attempt < 600; attempt++) {
      const [job] = await ask('query-jobs')
      if (job?.status === 'ready') return
      if (job?.error) throw new Error(`QEMU: mirror: ${job.error}`)
      await sleep(50)
    }
    throw new Error('QEMU: the mirror was not ready within 30 s')
  }
  return { ask, ready, close: () => socket.destroy() }
}
