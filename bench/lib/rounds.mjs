// Runs the rounds of a part: A B C, A B C, ..., so that a machine that gets slower does so for all.
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { peers as known } from '../peers/all.mjs'
import { fill, measureLoad } from './load.mjs'
import { busyTime, shareOfOthers } from './machine.mjs'

/**
 * samples[load's name][peer's name] = one sample a round. `told(round, load, name, sample)` hears of each.
 * A part has peers (names), loads, and place ('memory' or 'disk'). A peer that is not to be had here starts as null, and is
 * left out. One with measure(load, seconds, seed) measures itself; one that is `filled` has written its devices.
 */
export async function measurePart(part, plan, told) {
  const folder = join(plan.folders[part.place], part.name)
  mkdirSync(folder, { recursive: true })
  const started = {}
  try {
    for (const name of part.peers) {
      const peer = await known[name].start({ folder, sizeBytes: plan.sizeBytes })
      if (peer === null) continue
      started[name] = peer
      if (peer.target !== undefined && !peer.filled) await fill(peer.target, plan.sizeBytes)
      await peer.settled()
    }
    const names = Object.keys(started)
    const samples = {}
    for (const load of part.loads) samples[load.name] = Object.fromEntries(names.map(name => [name, []]))
    for (let round = 0; round < plan.rounds; round++) {
      for (const load of part.loads) {
        for (const name of names) {
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

async function measureOne(peer, load, plan, round) {
  const before = busyTime()
  const sample =
    peer.measure === undefined
      ? await measureLoad(peer, load, plan.seconds, round + 1)
      : await peer.measure(load, plan.seconds, round + 1)
  return { ...sample, others: shareOfOthers(before, busyTime()) }
}
