/**
 * Faults of the roles: a planned change, and the failover to the standby of a master that was killed. Clients write to
 * the other side in between, and both end with the roles as they were.
 *
 *   master reigns --switchover--> standby reigns --switchover--> master reigns
 *   master dies   --promote-----> standby reigns, the old master follows (or resolve) --switchover--> master reigns
 *                  or --at, and the standby dies in the middle of going back
 */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ControlClient } from '../../src/daemon/control-client.js'
import { UnderstudyError } from '../../src/core/errors.js'
import { sleep, SLOWER } from '../support/daemon.js'
import { type Fault, goOn, masterGone, startMaster, type Torture } from './fault.js'
import { cutPower, type Side, volume } from './stage.js'

const limitMs = 20_000
const reachMs = 4_000

export const switchover: Fault = {
  name: 'switchover and back',
  kill: false,
  run: async torture => {
    torture.watch.disturb()
    await handOver(torture, 'master', 'standby')
    await clientsWrite(torture)
    await handOver(torture, 'standby', 'master')
  },
}

export const failover: Fault = {
  name: 'promote, and the old master returns',
  kill: true,
  run: async torture => {
    const { stage, judge } = torture
    await stage.pair.master.kill()
    await masterGone(torture)
    const promises = judge.promises()
    await promote(torture, true)
    const content = await served(torture, 'standby')
    torture.loses(judge.standby(content, promises).lost)
    await returns(torture, content)
  },
}

export const goBack: Fault = {
  name: 'promote as of an earlier moment, killed in the middle, and the old master returns',
  kill: true,
  run: async torture => {
    const { stage, random, note } = torture
    await stage.pair.master.kill()
    await masterGone(torture)
    // One that a full disk has cost begins anew some time later.
    await stage.observer.until('there is a history', limitMs, async () => (await stage.observer.status('standby'))?.history?.newest?.sequence !== undefined) // prettier-ignore
    const then = new Date(Date.now() - random() * reachMs).toISOString()
    // A history that has just begun has nothing so old: then it is the present.
    const moment = await stage.observer.shown(then).catch(() => stage.observer.shown())
    note(`as of ${moment.at}`)
    await promoteKilled(torture, moment.at)
    const content = await served(torture, 'standby')
    if (!content.equals(moment.content)) torture.loses([`promoted as of ${moment.at}, it is not what that was`])
    await returns(torture, content)
  },
}

/** The standby reigns, and has new clients; then the old master comes back. */
async function returns(torture: Torture, content: Buffer): Promise<void> {
  goOn(torture, 'standby', content)
  await clientsWrite(torture)
  await startMaster(torture)
  await oldMasterFollows(torture)
  await handOver(torture, 'standby', 'master')
}

/** Each start goes on by itself, unless a power cut has taken the promotion back: then it is asked for once more. */
async function promoteKilled(torture: Torture, at: string): Promise<void> {
  const { stage, judge, random } = torture
  const { standby, image } = stage.pair
  const record = join(dirname(image), '../.groups', volume, 'replica.json')
  for (let kills = Math.floor(random() * 4); kills > 0; kills--) {
    promote(torture, true, at).catch(() => undefined) // its daemon is killed
    const isOnDisk = (): boolean => readFileSync(record, 'utf8').includes('"asOf"')
    await stage.observer.until('the promotion is on disk', limitMs, isOnDisk)
    await sleep(random() * 30)
    judge.standbyDied()
    if (random() < 0.5) await cutPower(stage, 'standby', random)
    else await standby.kill()
    await standby.restart()
  }
  await promote(torture, true, at)
}

/** Planned: nothing that a client was told is missing on the other side. */
async function handOver(torture: Torture, from: Side, to: Side): Promise<void> {
  const { stage, workload, judge } = torture
  await accepted(() => new ControlClient(stage.pair[from].state).post('/switchover', { volume }))
  await stage.observer.until(`the ${to} reigns`, limitMs, async () => (await stage.observer.status(to))?.role === 'master') // prettier-ignore
  if (to === 'standby') await promote(torture, false)
  await workload.pause()
  const content = await served(torture, to)
  torture.loses(judge.masterAfterKill(content))
  goOn(torture, to, content)
}

/** What clients read there. Who reigns serves a moment later. */
async function served({ stage: { observer } }: Torture, side: Side): Promise<Buffer> {
  let content: Buffer | undefined
  await observer.until(`the ${side} serves`, limitMs, async () => {
    content = await observer.content(side).catch(() => undefined)
    return content !== undefined
  })
  return content ?? Buffer.alloc(0)
}

/** Also tells a standby that reigns already where its clients come. */
async function promote({ stage }: Torture, acceptLoss: boolean, at = ''): Promise<void> {
  const request = { volume, acceptLoss, force: false, listen: `unix:${stage.sockets.standby}`, at }
  await new ControlClient(stage.pair.standby.state).post('/promote', request).catch((error: unknown) => {
    if (!(error instanceof UnderstudyError && error.code === 'IS_MASTER')) throw error
  })
}

async function oldMasterFollows({ stage, note }: Torture): Promise<void> {
  let resolved = false
  await stage.observer.until('the old master follows', limitMs, async () => {
    const status = await stage.observer.status('master')
    if (status?.state === 'diverged' && !resolved) {
      resolved = true
      note('it had written more: resolve --keep peer')
      await new ControlClient(stage.pair.master.state).post('/resolve', { volume, keep: 'peer' })
    }
    return status?.role === 'standby'
  })
}

/** Until it is refused no more: the other side may still lack something. */
async function accepted(ask: () => Promise<unknown>): Promise<void> {
  for (const end = performance.now() + limitMs * SLOWER; ; await sleep(50)) {
    try {
      await ask()
      return
    } catch (error) {
      if (!(error instanceof UnderstudyError) || performance.now() > end) throw error
    }
  }
}

async function clientsWrite({ workload, random }: Torture): Promise<void> {
  await workload.written(200 + Math.floor(random() * 800), limitMs)
}
