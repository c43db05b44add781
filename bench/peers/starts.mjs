// How long it takes from nothing to the first answer; and how fast a standby gets what it lacks.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { put } from '../lib/load.mjs'
import { filledFile } from '../lib/files.mjs'
import { ask, startPair } from './understudy.mjs'

const nothing = { processes: {}, settled: async () => null, stop: async () => undefined }

/** `start` is that of another peer. */
export function startCold(start, name) {
  return async ({ folder, sizeBytes }) => ({
    ...nothing,
    async measure() {
      const own = join(folder, name)
      const before = performance.now()
      const peer = await start({ folder: own, sizeBytes })
      await put(peer.target, { block: 4096, depth: 1, reads: 100 }, ['--requests', 1])
      const startMs = performance.now() - before
      await peer.stop()
      rmSync(own, { recursive: true })
      return { startMs }
    },
  })
}

/** A new pair whose device is full of data; then half of it is written while replication is paused. */
export async function startSync({ folder, sizeBytes }) {
  return {
    ...nothing,
    async measure() {
      const peer = await startPair({ folder, sizeBytes }, 'sync', ['--durability', 'async'], path =>
        filledFile(path, sizeBytes),
      )
      await ask(['pause', 'bench', '--state', peer.state])
      const block = 64 << 10
      await put(peer.target, { block, depth: 8, sequential: true }, ['--requests', sizeBytes / 2 / block])
      const before = Date.now()
      await ask(['resume', 'bench', '--state', peer.state])
      const { atMs } = await peer.settled()
      await peer.stop()
      rmSync(join(folder, 'sync'), { recursive: true })
      const resyncRate = sizeBytes / 2 / ((atMs - before) / 1000)
      return { initialRate: sizeBytes / peer.initialSeconds, resyncRate }
    },
  }
}
