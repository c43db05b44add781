/**
 * Faults of a takeover: a new process goes on in place of a daemon, under its clients; or is killed in the middle of
 * that, and the old one goes on. Either way clients keep their connections, and the roles stay as they were.
 */
import { writeFileSync } from 'node:fs'
import { type Ended, type Program, sleep, SLOWER } from '../support/daemon.js'
import { killedAt, successorOf } from '../support/takeover.js'
import type { Fault } from './fault.js'
import { historyLimits, connectionsAtRest, peerTimeoutMs, type Side, type Stage, volume } from './stage.js'

/** Copies may be exported still, and a start take its time. */
const limitMs = 60_000

export const takeovers: Fault[] = (['master', 'standby'] as const).flatMap(side => [
  takeover(side, false),
  takeover(side, true),
])

function phaseOf(random: () => number): string {
  const phases = ['asked', 'begun', 'heir', 'open']
  return phases[Math.floor(random() * phases.length)] ?? 'open'
}

function takeover(side: Side, isKilled: boolean): Fault {
  return {
    name: `takeover of the ${side}${isKilled ? ', kill -9 of its successor' : ''}`,
    kill: isKilled,
    run: async torture => {
      const { stage, watch, workload, judge, note } = torture
      const phase = isKilled ? phaseOf(torture.random) : undefined
      if (phase !== undefined) note(`at phase '${phase}'`)
      const before = { ...workload.connections }
      watch.disturb()
      if (side === 'master') watch.pauses()
      await succeed(stage, side, phase)
      if (side === 'master') await watch.resumes()
      else judge.standbyDied()
      const { made, alive } = workload.connections
      // Those that were about to connect, after an earlier fault, prove nothing.
      if (side === 'master' && before.alive === connectionsAtRest && (made > before.made || alive < before.alive))
        torture.loses(['clients lost their connections in a takeover (G1)'])
    },
  }
}

/** Until it works out. Returns with the daemon that goes on as stage.pair[side]. */
async function succeed(stage: Stage, side: Side, phase: string | undefined): Promise<void> {
  const daemon = stage.pair[side]
  const before = daemon.program
  const config = stage.pair.scratch.path(`${side}.toml`)
  writeFileSync(config, configOf(stage, side))
  const env = { ...stage.power[side].env(), ...(phase === undefined ? {} : killedAt(phase)) }
  for (const end = performance.now() + limitMs * SLOWER; ; await sleep(50)) {
    const successor = successorOf(stage.owner, config, env)
    const ended = await readyOrGone(successor)
    if (ended === undefined) {
      const old = await before.gone()
      if (old.code !== 0)
        throw new Error(`the ${side} ended with ${JSON.stringify(old)} after a takeover${before.tail()}`)
      daemon.program = successor
      return
    }
    if (phase !== undefined && ended.signal === 'SIGKILL') break
    // Given up, the old one goes on: a busy machine, a copy that is exported still.
    if (performance.now() > end)
      throw new Error(`takeover of the ${side}: ${JSON.stringify(ended)}${successor.tail()}${before.tail()}`)
  }
  await stage.observer.until(
    `the ${side} goes on`,
    limitMs,
    async () => (await stage.observer.status(side)) !== undefined,
  )
}

/** Undefined: it serves. Not gone() of one that does, which would end it. */
function readyOrGone(program: Program): Promise<Ended | undefined> {
  return program.printed(/^understudy: ready/m, limitMs).then(
    () => undefined,
    () => program.gone(),
  )
}

function configOf({ pair, relay, durability, sockets }: Stage, side: Side): string {
  const head = `state = "${pair[side].state}"\n[metrics]\nlisten = "127.0.0.1:${pair.metrics[side]}"\n`
  if (side === 'standby') {
    const store = pair.image.slice(0, -`/${volume}/image.raw`.length)
    return `${head}[standby]\nstore = "${store}"\nlisten = "${pair.standbyAddress}"\nallow = ["${pair.masterId}"]\nhistory = "${historyLimits}"\n`
  }
  return `${head}[nbd]
listen = ["unix:${sockets.master}"]
[[group]]
standby = "${pair.standbyId}@127.0.0.1:${relay.port}"
durability = "${durability}"
peer_timeout = "${peerTimeoutMs}ms"
[[group.volume]]
export = "${volume}"
device = "${pair.device}"
`
}
