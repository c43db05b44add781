// timeout: 120
/**
 * Under `received` an acknowledged write may be in the master's page cache only. A host that loses its power has lost it;
 * the standby gives it back before a client is served (design, "Master process or host dies").
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { inSync, logged, metricBecomes, sameBytes, sleep, SLOWER } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'
import { changedBlocks, reusedBlocks } from '../support/reused-blocks.js'
import { cutPower, setStage, type Stage, volume } from '../torture/stage.js'

const sizeBytes = 32 << 20
const pieceBytes = 256 << 10
/** Several regions of 64 KiB each, in several extents of 4 MiB; the last ends with the volume. */
const places = [0, 5 << 20, (9 << 20) + 4096, sizeBytes - pieceBytes]
const pattern = (value: number): Buffer => Buffer.alloc(pieceBytes, value)
const allLost = (): number => 0

async function client(stage: Stage): Promise<NbdClient> {
  const opened = await NbdClient.connect({ path: stage.pair.socket })
  await opened.structuredReply()
  await opened.go(volume)
  return opened
}

async function write(stage: Stage, value: number, flush: boolean): Promise<void> {
  const writer = await client(stage)
  for (const place of places) await writer.write(place, pattern(value))
  if (flush) await writer.flush()
  writer.destroy()
}

async function shows(stage: Stage): Promise<number[]> {
  const reader = await client(stage)
  const found: number[] = []
  for (const place of places) {
    const { data } = await reader.read(place, pieceBytes)
    const value = data[0] ?? -1
    found.push(data.equals(pattern(value)) ? value : -1)
  }
  reader.destroy()
  return found
}

const all = (value: number): number[] => places.map(() => value)
const onDisk = ({ pair }: Stage): number[] => places.map(place => readFileSync(pair.device)[place] ?? -1)
const record = ({ pair }: Stage): { paired?: string } =>
  JSON.parse(readFileSync(join(pair.master.state, 'groups', `${volume}.json`), 'utf8')) as { paired?: string }

async function until(what: string, condition: () => boolean | Promise<boolean>, everyMs = 50): Promise<void> {
  for (const end = performance.now() + 30_000 * SLOWER; !(await condition()); await sleep(everyMs))
    if (performance.now() > end) throw new Error(`${what}: not within 30 s`)
}

/** In sync under `received`: 1 is on both disks, 2 is in the standby's memory and in the master's page cache. */
async function begin(t: Test): Promise<Stage> {
  const stage = await setStage(t, sizeBytes, 1)
  stage.durability = 'received'
  await stage.pair.standby.start()
  await stage.pair.master.start()
  await inSync(stage.pair)
  await until('the pair is known to be one', () => record(stage).paired !== undefined)
  await write(stage, 1, true)
  await write(stage, 2, false)
  return stage
}

const served = async (stage: Stage): Promise<boolean> => {
  try {
    await shows(stage)
    return true
  } catch {
    return false
  }
}

void t.test('a master that lost its power has what was acknowledged under received, before it serves (G3)', async t => {
  const stage = await begin(t)
  const { pair } = stage
  await inSync(pair) // what the standby has in memory only may be gone with it
  // The master first: it must not find out that it is alone.
  await cutPower(stage, 'master', allLost)
  await pair.standby.kill()
  t.same(onDisk(stage), all(1), 'the power cut took the unflushed writes')
  await pair.master.restart()
  const waiting = await pair.master.volume(volume)
  t.match(waiting, { protected: false, reason: /gives back what this side has lost.*'understudy promote' it there/ })
  t.equal(await served(stage), false, 'nobody is served before')
  await pair.standby.restart()
  await until('it serves', () => served(stage))
  t.same(await shows(stage), all(2))
  await inSync(pair)
  await logged(t, pair.master, /the standby has given back \d+ bytes; clients are served/)
  const given = await metricBecomes(
    t,
    pair.metrics.master,
    'understudy_given_back_bytes_total',
    bytes => bytes >= places.length * pieceBytes,
  )
  t.ok(given <= (places.length + 1) * (pieceBytes + (64 << 10)), `${given} bytes`)
  await pair.master.stop()
  await pair.standby.stop()
  await sameBytes(t, pair.device, pair.image)
})

void t.test('killed in the middle of being given back, again and again, it goes on where it must (G3)', async t => {
  const stage = await begin(t)
  const { pair } = stage
  const bulk = Buffer.alloc(12 << 20, 7)
  const writer = await client(stage)
  await writer.write(16 << 20, bulk)
  writer.destroy()
  await inSync(pair)
  await cutPower(stage, 'master', allLost)
  const lostBoot = record(stage).paired
  let interrupted = 0
  for (let round = 0; round < 4; round++) {
    const starting = pair.master.restart().catch(() => undefined) // it is killed before it is ready
    const { program } = pair.master
    await until('it begins', () => /resynchronisation begins/.test(program.stderr), 1)
    await sleep(round * 5)
    if (round === 1) await pair.standby.kill()
    await pair.master.kill()
    await starting
    if (round === 1) await pair.standby.restart()
    if (record(stage).paired === lostBoot) interrupted++
  }
  t.comment(`${interrupted} of 4 times it was in the middle`)
  t.ok(interrupted > 0, 'it was in the middle')
  await pair.master.restart()
  await until('it serves', () => served(stage))
  t.same(await shows(stage), all(2))
  const reader = await client(stage)
  const { data } = await reader.read(16 << 20, bulk.length)
  reader.destroy()
  t.ok(data.equals(bulk))
  await inSync(pair)
})

void t.test('what was acknowledged without the standby is not overwritten by it (G4)', async t => {
  const stage = await begin(t)
  const { pair } = stage
  pair.standby.program.signal('SIGSTOP')
  await write(stage, 3, true) // after the peer timeout nobody waits for it any more
  t.equal(record(stage).paired, undefined, 'on disk before the first reply that the standby may lack')
  await cutPower(stage, 'master', allLost)
  pair.standby.program.signal('SIGCONT')
  await pair.master.restart()
  await until('it serves', () => served(stage))
  t.same(await shows(stage), all(3))
  await inSync(pair)
})

void t.test('a master whose process died serves at once; the operator may serve without the standby (G1)', async t => {
  const stage = await begin(t)
  const { pair } = stage
  await inSync(pair)
  await pair.master.kill()
  await pair.standby.kill()
  await pair.master.restart()
  t.same(await shows(stage), all(2), 'the page cache has it')
  await pair.standby.restart()
  await inSync(pair)
  await until('the pair is known to be one', () => record(stage).paired !== undefined)
  await cutPower(stage, 'master', allLost)
  await pair.standby.kill()
  await pair.master.restart()
  t.equal(await served(stage), false)
  t.match(await pair.master.command(['invalidate', volume]), { code: 0 })
  await until('it serves', () => served(stage))
  t.same(await shows(stage), all(2), 'the start before had flushed it')
  await pair.standby.restart()
  await inSync(pair)
})

void t.test('with rules for files: what was written where a file had been left out is given back, too', async t => {
  const stage = await setStage(t, sizeBytes, 1)
  const { pair } = stage
  const { before, after } = await reusedBlocks(pair.scratch, pair.device)
  stage.durability = 'received'
  stage.masterFlags = ['--exclude-files', '/tmp/**']
  await pair.standby.start()
  await pair.master.start()
  await inSync(pair)
  const leftOut = async (): Promise<number | undefined> => (await stage.observer.status())?.filter?.leftOutBytes
  t.equal(await leftOut(), 14 << 20)
  await until('the pair is known to be one', () => record(stage).paired !== undefined)

  // First who has which block, and what that opens a step for; then the data, which are in the page cache when it ends.
  const { reused, others } = changedBlocks(t, before, after)
  const writer = await client(stage)
  for (const [at, block] of others) await writer.write(at, block)
  await until('nothing is left out any more', async () => (await leftOut()) === 0)
  await inSync(pair)
  await until('the pair is one again', () => record(stage).paired !== undefined)
  for (const [at, block] of reused) await writer.write(at, block)
  writer.destroy()
  await inSync(pair)

  await cutPower(stage, 'master', allLost)
  const cut = readFileSync(pair.device)
  t.ok(
    reused.every(([at]) => cut[at] === 0x58),
    'the power cut took the unflushed writes',
  )
  await pair.master.restart()
  await until('it serves', () => served(stage))
  t.ok(readFileSync(pair.device).equals(after), 'data and zeroes')
  await inSync(pair)
  await pair.master.stop()
  await pair.standby.stop()
  await sameBytes(t, pair.device, pair.image)
})
