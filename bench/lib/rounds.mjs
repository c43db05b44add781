// Runs the rounds of a part: A B C, A B C, ..., so that a machine that gets slower does so for all.
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { peers as known } from '../peers/all.mjs'
import { fill, measureLoad } from './load.mjs'
import { busyTime, shareOfOthers } from './machine.mjs'
import { peersOf, roundsOf, secondsOf } from './plan.mjs'

/**
 * samples[load's name][peer's name] = one sample a round. `told(round, load, name, sample)` hears of each.
 * A part has peers (names), loads, and place ('memory' or 'disk'). A peer that is not to be had here starts as null, and is
 * left out. One with measure(load, seconds, seed) measures itself; one that is `filled` has written its devices.
 * A peer that fails voids what was to be measured of it, and the others go on.
 */
export async function measurePart(part, plan, told, available = known) {
  const folder = join(plan.folders[part.place], part.name)
  mkdirSync(folder, { recursive: true })
  const started = {}
  try {
    for (const name of part.peers) {
      const peer = await orFailed(() => begin(available[name], folder, part.place, plan))
      if (peer !== null) started[name] = peer
    }
    const samples = {}
    for (const load of part.loads) samples[load.name] = Object.fromEntries(Object.keys(started).map(name => [name, []]))
    for (let round = 0; round < roundsOf(part, plan); round++) {
      for (const load of part.loads) {
        for (const name of peersOf(part, load).filter(name => name in started)) {
          const sample = await measureOne(started[name], load, secondsOf(part, load, plan), round)
          samples[load.name][name].push(sample)
          told(round, load, name, sample)
        }
      }
    }
    return samples
  } finally {
    for (const peer of Object.values(started)) await peer.stop?.()
    rmSync(folder, { recursive: true, force: true })
  }
}

async function begin(peer, folder, place, { sizeBytes, folders }) {
  const started = await peer.start({ folder, sizeBytes, folders })
  if (started === null) return null
  if (started.target !== undefined && !started.filled) await fill(started.target, sizeBytes, place)
  await started.settled()
  return started
}

async function measureOne(peer, load, seconds, round) {
  if (peer.void !== undefined) return peer
  const before = busyTime()
  const sample = await orFailed(() =>
    peer.measure === undefined ? measureLoad(peer, load, seconds, round + 1) : peer.measure(load, seconds, round + 1),
  )
  return { ...sample, others: shareOfOthers(before, busyTime()) }
}

/** A failure is a sample that counts for nothing and says why: hours of other measurements do not end with it. */
async function orFailed(action) {
  try {
    return await action()
  } catch (error) {
    return { void: `failed: ${error.message.split('\n').slice(0, 2).join(' ').slice(0, 200)}` }
  }
}
