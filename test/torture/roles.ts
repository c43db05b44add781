/**
 * Faults of the roles: a planned change, and the failover to the standby of a master that was killed. Clients write to
 * the other side in between, and both end with the roles as they were.
 *
 *   master reigns --switchover--> standby reigns --switchover--> master reigns
 *   master dies   --promote-----> standby reigns, the old master follows (or resolve) --switchover--> master reigns
 */
import { ControlClient } from '../../src/daemon/control-client.js'
import { UnderstudyError } from '../../src/core/errors.js'
import { sleep, SLOWER } from '../support/daemon.js'
import { type Fault, goOn, masterGone, startMaster, type Torture } from './fault.js'
import { type Side, volume } from './stage.js'

const limitMs = 20_000

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
    goOn(torture, 'standby', content)
    await clientsWrite(torture)
    await startMaster(torture)
    await oldMasterFollows(torture)
    await handOver(torture, 'standby', 'master')
  },
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
async function promote({ stage }: Torture, acceptLoss: boolean): Promise<void> {
  const request = { volume, acceptLoss, force: false, listen: `unix:${stage.sockets.standby}` }
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
