// A standby that keeps a history: how long until a moment is open, by how far back it lies (history/history.cc); what the history
// costs replay (history/replay.cc); and how much the standby's disk takes for what a client wrote, by the kernel's account.
import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { filledFile } from '../lib/files.mjs'
import { put } from '../lib/load.mjs'
import { loopFilesystem } from '../lib/loop-filesystem.mjs'
import { run } from '../lib/processes.mjs'
import { historyVoidReason } from '../lib/void.mjs'
import { startPair, status } from './understudy.mjs'

const programs = fileURLToPath(new URL('../../build/bench/', import.meta.url))
const nothing = { processes: {}, settled: async () => null, stop: async () => undefined }
const GiB = 2 ** 30

export async function startHistory({ folder }) {
  return {
    ...nothing,
    measure: () =>
      within(join(folder, 'history'), async own => JSON.parse(await run(join(programs, 'history'), [own], 120))),
  }
}

/** The standby's store on a file system of its own: `xfs` or `ext4`. */
export const startHistoryOn =
  kind =>
  async ({ folder, sizeBytes }) => ({
    ...nothing,
    measure: (load, _seconds, seed) =>
      within(join(folder, `history-${kind}`), async own => {
        const filesystem = await loopFilesystem(kind, own, 6 * GiB)
        try {
          if (load.replays !== undefined) return await replayed(filesystem, load.replays, seed)
          return await written(filesystem, kind, load, { folder: own, sizeBytes, seed })
        } finally {
          await filesystem.stop()
        }
      }),
  })

async function within(own, measure) {
  mkdirSync(own, { recursive: true })
  try {
    return await measure(own)
  } finally {
    rmSync(own, { recursive: true })
  }
}

/** Which of the two comes first, changes from round to round. */
const replayed = async ({ path }, pattern, seed) =>
  JSON.parse(await run(join(programs, 'history-replay'), [path, pattern, seed % 2 ? 'first' : 'second'], 120))

/** `writes` bytes of a client, to a volume that was full before; the same with a history and without one. */
async function written(filesystem, kind, load, { folder, sizeBytes, seed }) {
  const found = {}
  for (const hasHistory of seed % 2 ? [true, false] : [false, true]) {
    const store = join(filesystem.path, 'store')
    const standbyFlags = hasHistory ? ['--history', '24h'] : []
    const pair = await startPair({ folder, sizeBytes, store, standbyFlags }, 'pair', ['--durability', 'async'], path =>
      filledFile(path, sizeBytes),
    )
    const epochs = hasHistory ? await watchedEpochs(pair, join(store, '.groups/bench/history'), sizeBytes) : null
    const before = await filesystem.writtenBytes()
    await put(pair.target, load, ['--requests', load.writes / load.block], seed)
    await pair.settled()
    const times = ((await filesystem.writtenBytes()) - before) / load.writes
    Object.assign(found, hasHistory ? { times, ...epochs.stop() } : { plainTimes: times })
    await pair.stop()
    filesystem.clear()
    rmSync(join(folder, 'pair'), { recursive: true })
  }
  return { void: historyVoidReason(kind, found), ...found }
}

/** Of what the history is made while it is written, as not all of it is there at the end. A clone that is not whole is none. */
async function watchedEpochs({ standbyState }, folder, sizeBytes) {
  while (!(await status(standbyState)).volumes[0].history?.oldest) await sleep(20)
  const [epochs, cloned, savedBytes] = [new Set(), new Set(), new Map()]
  const look = () => {
    for (const name of readdirSync(folder)) {
      const epoch = name.split('.')[0]
      const size = statSync(join(folder, name), { throwIfNoEntry: false })?.size
      epochs.add(epoch)
      if (name.endsWith('.image') && size === sizeBytes) cloned.add(epoch)
      if (name.endsWith('.saved') && size !== undefined) savedBytes.set(epoch, size)
    }
  }
  const timer = setInterval(look, 50)
  return {
    stop() {
      clearInterval(timer)
      look()
      const savedMiB = [...savedBytes.values()].reduce((sum, size) => sum + size, 0) / 2 ** 20
      return { epochs: epochs.size, clonedEpochs: cloned.size, savedMiB }
    },
  }
}
