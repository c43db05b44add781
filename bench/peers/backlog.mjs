// A pair whose standby stops for a while: how much memory the daemons take with a full log.
import { setTimeout as sleep } from 'node:timers/promises'
import { put } from '../lib/load.mjs'
import { memoryMiB } from '../lib/processes.mjs'
import { startPair, status } from './understudy.mjs'

const logMiB = 256
const load = { block: 64 << 10, depth: 32 }

export async function startBacklog(context) {
  const peer = await startPair(context, 'backlog', [
    '--durability',
    'async',
    '--log-size',
    `${logMiB}MiB`,
    '--peer-timeout',
    '60s',
  ])
  return { ...peer, filled: true, measure: () => measure(peer) }
}

async function measure(peer) {
  const { master, standby } = peer.processes
  process.kill(standby.pid, 'SIGSTOP')
  // More than the log takes: the rest waits until the standby goes on.
  const writing = put(peer.target, load, ['--requests', (logMiB << 20) / load.block + 1000])
  let masterMiB
  try {
    await full(peer.state)
    masterMiB = memoryMiB(master.pid)
  } finally {
    process.kill(standby.pid, 'SIGCONT')
  }
  let [standbyMiB, over] = [0, false]
  const watched = (async () => {
    for (; !over; await sleep(20)) standbyMiB = Math.max(standbyMiB, memoryMiB(standby.pid))
  })()
  await writing
  await peer.settled()
  over = true
  await watched
  return { masterMiB, standbyMiB, masterOverMiB: masterMiB - logMiB, standbyOverMiB: standbyMiB - logMiB }
}

/** Until the log has held nearly all it may, and no more, for half a second. */
async function full(state) {
  let [bytes, same] = [-1, 0]
  for (const end = Date.now() + 40_000; Date.now() < end; await sleep(100)) {
    const [{ logBytes, logMaxBytes }] = (await status(state)).volumes
    same = logBytes === bytes && logBytes > logMaxBytes * 0.9 ? same + 1 : 0
    if (same === 5) return
    bytes = logBytes
  }
  throw new Error(`understudy: the log was not full after 40 s: ${bytes} bytes`)
}
