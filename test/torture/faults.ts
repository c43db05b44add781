/** What is done to the pair, one after the other. Each leaves both daemons running and the network whole. */
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { sleep } from '../support/daemon.js'
import { type Fault, goOn, masterGone, startMaster, type Torture } from './fault.js'
import { failover, goBack, switchover } from './roles.js'
import { type Side, cutPower, peerTimeoutMs } from './stage.js'
import { takeovers } from './takeover.js'

/** It is up again: what its clients read is judged. */
async function masterReturns(torture: Torture, how: 'kept' | 'power cut'): Promise<void> {
  const { judge, stage } = torture
  const promises = judge.promises()
  await startMaster(torture)
  const content = await stage.observer.content('master')
  // Then it is the standby's cut, and has what that had been promised to have.
  if (/the standby has given back/.test(stage.pair.master.program.stderr)) {
    torture.note('the master was given back what it had lost')
    torture.loses(judge.standby(content, promises).lost.map(loss => `the master, given back: ${loss}`))
  }
  torture.loses(how === 'kept' ? judge.masterAfterKill(content) : judge.masterAfterPowerCut(content))
  goOn(torture, 'master', content)
}

function down(name: string, sides: Side[], power: Side[]): Fault {
  return {
    name,
    kill: true,
    run: async torture => {
      const { stage, random, watch, judge } = torture
      const { pair } = stage
      const masterDies = sides.includes('master')
      // The standby first: the master must not find out and go on alone.
      for (const side of [...sides].sort().reverse()) await pair[side].kill()
      if (masterDies) await masterGone(torture)
      else watch.disturb()
      if (sides.includes('standby')) judge.standbyDied()
      for (const side of power) {
        const { names, sectors } = await cutPower(stage, side, random)
        torture.note(`${side}: ${sectors} sectors and ${names} names taken back`)
      }
      if (masterDies && !sides.includes('standby')) await torture.judgeStandby('with the master down')
      if (sides.includes('standby')) await pair.standby.restart()
      if (masterDies && sides.includes('standby')) await torture.judgeStandby('before the master is back')
      if (masterDies) await masterReturns(torture, power.includes('master') ? 'power cut' : 'kept')
    },
  }
}

function network(name: string, milliseconds: [number, number], change: (torture: Torture) => void): Fault {
  return {
    name,
    kill: false,
    run: async torture => {
      const { relay } = torture.stage
      torture.watch.disturb()
      change(torture)
      await sleep(milliseconds[0] + torture.random() * (milliseconds[1] - milliseconds[0]))
      Object.assign(relay, { loss: 0, duplication: 0, reordering: 0, delayMs: 0 })
    },
  }
}

function frozen(name: string, side: Side, milliseconds: number): Fault {
  return {
    name,
    kill: false,
    run: async ({ stage, watch }) => {
      watch.disturb()
      stage.pair[side].program.signal('SIGSTOP')
      await sleep(milliseconds)
      stage.pair[side].program.signal('SIGCONT')
    },
  }
}

const restartMaster: Fault = {
  name: 'stop of the master',
  kill: false,
  run: async torture => {
    const { stage, workload } = torture
    await stage.pair.master.stop()
    await workload.pause()
    torture.watch.reset()
    await masterReturns(torture, 'kept')
  },
}

const restartStandby: Fault = {
  name: 'stop of the standby',
  kill: false,
  run: async ({ stage, watch }) => {
    watch.disturb()
    await stage.pair.standby.stop()
    await stage.pair.standby.restart()
  },
}

const fullDisk: Fault = {
  name: 'full disk of the standby',
  kill: false,
  missing: stage => (stage.standbyDisk === undefined ? 'not allowed to mount a small file system' : undefined),
  run: async ({ stage, watch, judgeStandby }) => {
    watch.disturb()
    const filler = join(stage.standbyDisk ?? '', 'filler')
    const descriptor = openSync(filler, 'w')
    try {
      const chunk = Buffer.alloc(1 << 20)
      for (let room = true; room;) {
        try {
          room = writeSync(descriptor, chunk) > 0
        } catch {
          room = false
        }
      }
      await sleep(600)
      await judgeStandby('with a full disk')
    } finally {
      closeSync(descriptor)
      rmSync(filler)
    }
  },
}

/** What costs little time comes three times as often as the rest: the pair is in sync for most of it. */
const light: Fault[] = [
  frozen('standby frozen for a moment', 'standby', 200),
  frozen('master frozen', 'master', 200),
  network('network cut for a moment', [100, 300], torture => (torture.stage.relay.loss = 1)),
  network('packets lost', [200, 400], torture => (torture.stage.relay.loss = 0.01 + 0.1 * torture.random())),
  network('packets duplicated', [200, 400], torture => (torture.stage.relay.duplication = 0.3)),
  network('packets reordered', [200, 400], torture => (torture.stage.relay.reordering = 0.2)),
  network('packets late', [200, 400], torture => (torture.stage.relay.delayMs = 5 + 40 * torture.random())),
  network('another address of the master', [50, 150], torture => torture.stage.relay.rebind()),
]

export const faults: Fault[] = [
  down('kill -9 of the master', ['master'], []),
  down('kill -9 of the standby', ['standby'], []),
  down('kill -9 of both', ['master', 'standby'], []),
  down('power cut of the master', ['master'], ['master']),
  down('power cut of the standby', ['standby'], ['standby']),
  down('power cut of both', ['master', 'standby'], ['master', 'standby']),
  restartMaster,
  restartStandby,
  fullDisk,
  switchover,
  failover,
  goBack,
  ...takeovers,
  frozen('standby frozen beyond the peer timeout', 'standby', peerTimeoutMs + 500),
  network('network cut beyond the peer timeout', [1400, 1800], torture => (torture.stage.relay.loss = 1)),
  ...light,
  ...light,
  ...light,
  down('kill -9 of the standby', ['standby'], []),
]
