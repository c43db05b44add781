/** Comparing both sides online: what is different is found, and a verify whose session is lost ends. */
import { openSync, closeSync, writeSync } from 'node:fs'
import t from 'tap'
import { inSync, sleep, startPair } from '../support/daemon.js'

t.test('verify finds a block that was changed behind the back of both, and says which', async t => {
  const pair = await startPair(t)
  t.match(await pair.master.command(['verify', pair.volume]), { code: 0, stdout: /64 chunks, all equal/ })
  const image = openSync(pair.image, 'r+')
  writeSync(image, Buffer.from('not the master'), 0, 14, 5 << 20)
  closeSync(image)
  const found = await pair.master.command(['verify', pair.volume])
  t.match(found, { code: 1, stderr: /1 of 64 chunks differ/ })
  t.match((await pair.master.volume(pair.volume)).lastVerify, { chunks: 64, different: 1 })
})

// The results were lost with the session, and the engine waited for them until the log was given up: "already running".
t.test('a verify whose session is lost ends, and the next one runs to its end', async t => {
  const pair = await startPair(t, { sizeBytes: 256 << 20 })
  pair.standby.program.signal('SIGSTOP')
  const interrupted = pair.master.command(['verify', pair.volume], { limitMs: 20_000 })
  await sleep(500)
  await pair.standby.kill()
  await pair.standby.restart()
  t.match(await interrupted, { code: 1, stderr: /verify/ }, 'it ends with exit code 1')
  await inSync(pair)
  t.match(await pair.master.command(['verify', pair.volume]), { code: 0, stdout: /256 chunks, all equal/ })
})
