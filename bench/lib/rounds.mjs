// Runs the rounds of a part: A B C, A B C, ..., so that a machine that gets slower does so for all.
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { peers as known } from '../peers/all.mjs'
import { fill, measureLoad } from './load.mjs'

/**
 * samples[load's name][peer's name] = one sample a round. `told(round, load, name, sample)` hears of each.
 * A part has peers (names), loads, and place ('memory' or 'disk').
 */
export async function measurePart(part, plan, told) {
  const folder = join(plan.folders[part.place], part.name)
  mkdirSync(folder, { recursive: true })
  const started = {}
  try {
    for (const name of part.peers) {
      started[name] = await known[name].start({ folder, sizeBytes: plan.sizeBytes })
      if (started[name].target !== undefined && !started[name].filled) await fill(started[name].target, plan.sizeBytes)
      await started[name].settled()
    }
    const samples = {}
    for (const load of part.loads) samples[load.name] = Object.fromEntries(part.peers.map(name => [name, []]))
    for (let round = 0; round < plan.rounds; round++) {
      for (const load of part.loads) {
        for (const name of part.peers) {
          const sample = await measureOne(started[name], load, plan, round)
          samples[load.name][name].push(sample)
          told(round, load, name, sample)
        }
      }
    }
    return samples
  } finally {
    for (const peer of Object.values(started)) await peer.stop()
    rmSync(folder, { recursive: true, force: true })
  }
}

function measureOne(peer, load, plan, round) {
  return peer.measure === undefined
    ? measureLoad(peer, load, plan.seconds, round + 1)
    : peer.measure(load, plan.seconds, round + 1)
}
