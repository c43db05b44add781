// timeout: 90
/** --on-event: what a cluster manager hears of a pair, on either side. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { becomes, scratch, startPair } from '../support/daemon.js'

t.test('each side says what becomes of its volume', async t => {
  const files = scratch(t)
  const [script, told] = [files.path('tell'), files.path('told')]
  writeFileSync(script, `echo "$UNDERSTUDY_EVENT $UNDERSTUDY_VOLUME $UNDERSTUDY_ROLE" >>${told}\n`)
  const flags = ['--on-event', `sh ${script}`]
  const said = (line: string): boolean => existsSync(told) && readFileSync(told, 'utf8').split('\n').includes(line)
  // What lasts less than a second is no event: each state is waited for before the next one.
  const pair = await startPair(t, { idle: true, master: [...flags, '--peer-timeout', '1s'], standby: flags })
  await pair.master.start()
  await pair.standby.start()
  await becomes(t, 'it has a standby', () => said('usable disk1 master') && said('protected disk1 master'))
  await pair.standby.stop()
  await becomes(t, 'its standby is gone', () => said('detached disk1 master') && said('unprotected disk1 master'))
  await pair.standby.restart()
  await becomes(t, 'the copy is protected', () => said('protected disk1 standby'))
  await pair.master.stop()
  await becomes(t, 'its master is gone', () => said('detached disk1 standby'))
  t.equal((await pair.standby.command(['promote', 'disk1', '--accept-loss'])).code, 0)
  await becomes(t, 'it was promoted', () => said('promoted disk1 master'))
})
