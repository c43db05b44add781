/** What a fault is, what it is given, and what most of them do to the master. */
import type { Workload } from '../support/workload.js'
import type { Judge } from './judge.js'
import type { Side, Stage } from './stage.js'
import type { Watch } from './watch.js'

export interface Torture {
  stage: Stage
  workload: Workload
  judge: Judge
  watch: Watch
  random: () => number
  /** Judges what the standby shows now, if it can show anything. */
  judgeStandby: (when: string) => Promise<void>
  /** Each is a line, and the run has failed. */
  loses: (lost: string[]) => void
  note: (text: string) => void
}

export interface Fault {
  name: string
  kill: boolean
  /** Undefined: can be done here; otherwise why not. */
  missing?: (stage: Stage) => string | undefined
  run: (torture: Torture) => Promise<void>
}

const durabilities = ['flush', 'flush', 'durable', 'received', 'async'] as const

/** The end of the master: nothing is in flight any more, and the windows of acknowledgements are closed. */
export async function masterGone({ workload, watch }: Torture): Promise<void> {
  const killedMs = performance.now()
  await workload.pause()
  watch.died(killedMs)
}

export async function startMaster({ stage, random }: Torture): Promise<void> {
  stage.durability = durabilities[Math.floor(random() * durabilities.length)] ?? 'flush'
  await stage.pair.master.restart()
  await stage.observer.until('nobody waits for what the standby gives back', 30_000, async () => {
    const status = await stage.observer.status('master')
    return status !== undefined && (status.state === 'diverged' || !/gives back/.test(status.reason))
  })
}

/** Nothing is in flight: what the clients of this side read has been judged, and begins a new epoch. */
export function goOn({ stage, workload, watch, judge }: Torture, side: Side, content: Buffer): void {
  stage.reigning = side
  watch.reset()
  workload.resume(judge.begin(content), { path: stage.sockets[side] })
}
