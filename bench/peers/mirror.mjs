// QEMU's storage daemon with blockdev-mirror to a second nbdkit, in clear text over unix sockets. write-blocking: a reply
// means that both have it. background: what is written is marked in a bitmap and copied later.
import { connect } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { sparseFile } from '../lib/files.mjs'
import { listening, start } from '../lib/processes.mjs'
import { startNbdkit } from './nbdkit.mjs'

export async function startMirror({ folder, sizeBytes }, copyMode) {
  const name = `mirror-${copyMode}`
  const target = await startNbdkit({ folder, sizeBytes }, `${name}-target`)
  const image = sparseFile(join(folder, name, 'disk.img'), sizeBytes)
  const [socket, monitor] = ['nbd.sock', 'qmp.sock'].map(file => join(folder, name, file))
  const program = start('qemu-storage-daemon', [
    '--blockdev', `file,node-name=file,filename=${image},aio=io_uring`,
    '--blockdev', 'raw,node-name=source,file=file',
    '--blockdev', `nbd,node-name=target,server.type=unix,server.path=${target.target.unix},export=`,
    '--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=0`,
    '--chardev', `socket,path=${monitor},server=on,wait=off,id=monitor`,
    '--monitor', 'chardev=monitor',
  ]) // prettier-ignore
  await listening(socket, program)
  const qmp = await openMonitor(monitor)
  await qmp.ask('qmp_capabilities')
  await qmp.ask('blockdev-mirror', {
    'job-id': 'mirror', device: 'source', target: 'target', sync: 'full', 'copy-mode': copyMode, 'filter-node-name': 'mirrored',
  }) // prettier-ignore
  await qmp.ready()
  await qmp.ask('block-export-add', { type: 'nbd', id: 'export', 'node-name': 'mirrored', name: 'x', writable: true })
  return {
    target: { unix: socket, export: 'x' },
    processes: { master: program, standby: target.processes.server },
    // It has no log: what is not copied yet is what its bitmap marks.
    settled: async () => (copyMode === 'background' ? { ...(await qmp.copied()), detaches: 0, logBytes: 0 } : null),
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
  /** When nothing is left to copy. The job counts anew every 100 ms. */
  const copied = async () => {
    for (const end = Date.now() + 120_000; Date.now() < end; await sleep(10)) {
      const [job] = await ask('query-jobs')
      if (job?.status !== 'ready') throw new Error(`QEMU: mirror: ${job?.error ?? job?.status ?? 'gone'}`)
      if (job['current-progress'] >= job['total-progress']) return { atMs: Date.now() }
    }
    throw new Error('QEMU: the mirror had not copied everything within 120 s')
  }
  return { ask, ready, copied, close: () => socket.destroy() }
}
