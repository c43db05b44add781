/**
 * understudy demo: the main job on scratch files, told step by step. Two daemons as processes of their own; clients
 * are those of libnbd and e2fsprogs. Every claim it prints was checked in the step before; exit code 0 means that all
 * of them held. Needs no root and no kernel module; removes what it made.
 */
import { createSocket } from 'node:dgram'
import { mkdir, mkdtemp, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Command } from 'commander'

import { OperationError } from '../core/errors.js'
import { MAIN } from '../core/root.js'
import type { VolumeStatus } from '../core/status-types.js'
import { formatDuration, formatSize, nbdUri } from '../core/units.js'
import { ControlClient } from '../daemon/control-client.js'
import { ChildProgram } from './demo/child-program.js'
import { gatherFiles, hashFile, type Manifest, manifestOf, requireEqual } from './demo/files.js'
import { Screen } from './demo/screen.js'
import { requireTools, run } from './demo/tools.js'
import { interruptSignal } from './options.js'

const VOLUME = 'demo'
const DRAIN_LIMIT_MS = 30_000
const POLL_MS = 100

interface DemoFlags {
  directory: string
  keep?: boolean
}

/** What the steps share. */
interface Stage {
  folder: string
  screen: Screen
  signal: AbortSignal
  programs: ChildProgram[]
}

const help = `
Shows: an ext4 file system written through NBD to the master; the lag draining; both sides equal by hash; the master
killed with SIGKILL; the standby's copy exported, read by another client, clean by e2fsck, every file equal by hash.

Example: understudy demo
`

export function demoCommand(): Command {
  return new Command('demo')
    .description('show the main job on scratch files: two daemons, a file system, a failover; under a minute')
    .option('--directory <dir>', 'where the scratch files go (about 500 MiB)', tmpdir())
    .option('--keep', 'keep the scratch files')
    .addHelpText('after', help)
    .action(demo)
}

async function demo(flags: DemoFlags): Promise<void> {
  requireTools()
  const folder = await mkdtemp(join(resolve(flags.directory), 'understudy-demo-'))
  const stage: Stage = { folder, screen: new Screen(process.stdout), signal: interruptSignal(), programs: [] }
  try {
    await tell(stage)
  } catch (error) {
    if (stage.signal.aborted) throw new OperationError('INTERRUPTED', 'demo: interrupted')
    for (const program of stage.programs) for (const line of program.lastLines()) stage.screen.line(line)
    throw error
  } finally {
    await Promise.all(stage.programs.map(program => program.end()))
    if (flags.keep === true) stage.screen.line(`the scratch files are kept in ${folder}`)
    else await rm(folder, { recursive: true, force: true })
  }
}

async function tell(stage: Stage): Promise<void> {
  const { screen, folder } = stage
  screen.line(`understudy demo: one disk, two daemons, one failover (scratch files in ${folder})\n`)
  const { image, sizeBytes, manifest } = await makeFileSystem(stage)
  const pair = await startPair(stage, sizeBytes)
  await writeThroughNbd(stage, pair, image)
  await drain(stage, pair)
  await compareImages(stage, pair, sizeBytes)
  await killMaster(stage, pair)
  const copy = await readBack(stage, pair)
  await checkCopy(stage, copy, manifest)
  screen.line(`\nThe standby had everything. All of it took ${screen.elapsed()}.`)
}

// ---- the steps ---------------------------------------------------------------------------------------------------------

async function makeFileSystem({
  folder,
  screen,
  signal,
}: Stage): Promise<{ image: string; sizeBytes: number; manifest: Manifest }> {
  screen.begin('An ext4 file system with real files is made (mke2fs): this program, its sources, the Node executable')
  const tree = join(folder, 'files')
  const manifest = await gatherFiles(tree)
  const image = join(folder, 'file-system.img')
  const sizeBytes = Math.ceil((manifest.bytes * 1.3 + (48 << 20)) / (16 << 20)) * (16 << 20)
  await writeFile(image, '')
  await truncate(image, sizeBytes)
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '4096', '-d', tree, image], { signal })
  await rm(tree, { recursive: true })
  screen.held(
    `${manifest.hashes.size} files, ${formatSize(manifest.bytes)}, on a disk of ${formatSize(sizeBytes)}; the hash of each is noted`,
  )
  return { image, sizeBytes, manifest }
}

interface Pair {
  master: ChildProgram
  standby: ChildProgram
  device: string
  standbyImage: string
  socket: string
  masterControl: ControlClient
  standbyState: string
}

async function startPair(stage: Stage, sizeBytes: number): Promise<Pair> {
  const { folder, screen } = stage
  screen.begin('A standby and a master are started and paired by their keys')
  const at = (name: string): string => join(folder, name)
  const [masterId, standbyId] = await Promise.all([identityOf(stage, at('master')), identityOf(stage, at('standby'))])
  const address = `127.0.0.1:${await freeUdpPort()}`
  const device = at('disk.img')
  await writeFile(device, '')
  await truncate(device, sizeBytes)

  const ready = /^understudy: ready/
  const standbyArgs = ['--state', at('standby'), '--store', at('store'), '--listen', address, '--allow', masterId]
  const standby = await ChildProgram.start('standby', ['standby', ...standbyArgs], ready)
  stage.programs.push(standby)
  const socket = at('disk.sock')
  const masterArgs = [
    '--device',
    device,
    '--export',
    VOLUME,
    '--listen',
    `unix:${socket}`,
    '--standby',
    `${standbyId}@${address}`,
  ]
  const master = await ChildProgram.start('master', ['master', '--state', at('master'), ...masterArgs], ready)
  stage.programs.push(master)

  const masterControl = new ControlClient(at('master'))
  await until(stage, 'the pair is protected', async () => (await volumeOf(masterControl)).protected)
  screen.detail(`master  ${masterId.slice(0, 16)}..., process ${master.pid}, NBD on unix:${socket}`)
  screen.detail(`standby ${standbyId.slice(0, 16)}..., QUIC on ${address}`)
  screen.held('each accepted only the other by its key; the link is encrypted; the empty disk is in sync')
  return {
    master,
    standby,
    device,
    standbyImage: join(at('store'), VOLUME, 'image.raw'),
    socket,
    masterControl,
    standbyState: at('standby'),
  }
}

async function writeThroughNbd({ screen, signal }: Stage, pair: Pair, image: string): Promise<void> {
  screen.begin(
    'A client (nbdcopy) writes the file system to the master through NBD; the standby is held (SIGSTOP) meanwhile',
  )
  pair.standby.hold()
  const uri = nbdUri({ kind: 'unix', path: pair.socket }, VOLUME)
  const started = performance.now()
  let percent = 0
  const onProgress = (line: string): void => {
    percent = Number(line.split('/')[0])
  }
  const timer = setInterval(() => {
    volumeOf(pair.masterControl).then(
      volume => screen.bar('written', percent, 100, `lag ${formatSize(volume.lagBytes)}`),
      () => undefined, // told by the copy itself when the master has a problem
    )
  }, POLL_MS)
  try {
    await run('nbdcopy', ['--progress=3', '--destination-is-zero', image, uri], { signal, onProgress })
  } finally {
    clearInterval(timer)
  }
  const volume = await volumeOf(pair.masterControl)
  const bytes = await allocatedBytes(image)
  const rate = bytes / ((performance.now() - started) / 1000)
  screen.bar('written', 100, 100, `lag ${formatSize(volume.lagBytes)}`)
  screen.held(
    `${volume.written} records, ${formatSize(bytes)} of data at ${formatSize(rate)}/s: a standby that does not answer costs the client nothing`,
  )
}

async function drain(stage: Stage, pair: Pair): Promise<void> {
  const { screen } = stage
  screen.begin('The standby goes on (SIGCONT): the lag drains')
  pair.standby.goOn()
  let written = '0'
  await until(stage, 'the lag has drained', async () => {
    const volume = await volumeOf(pair.masterControl)
    written = volume.written
    screen.bar('applied', Number(volume.applied), Number(volume.written), `lag ${formatSize(volume.lagBytes)}`)
    return volume.applied === volume.written && volume.dirtyBytes === 0
  })
  screen.held(`written = applied = ${written} records, lag 0, nothing dirty`)
}

async function compareImages({ screen, signal }: Stage, pair: Pair, sizeBytes: number): Promise<void> {
  screen.begin('Both disks are hashed, all bytes of them')
  let done = 0
  const onBytes = (bytes: number): void => {
    done += bytes
    screen.bar('hashed', done, 2 * sizeBytes)
  }
  const ours = await hashFile(pair.device, onBytes, signal)
  const theirs = await hashFile(pair.standbyImage, onBytes, signal)
  screen.detail(`master  sha256 ${ours}`)
  screen.detail(`standby sha256 ${theirs}`)
  if (ours !== theirs) throw new OperationError('DIFFERENT', 'demo: the standby differs from the master')
  screen.held('master and standby are identical')
}

async function killMaster({ screen }: Stage, pair: Pair): Promise<void> {
  screen.begin(`The master is killed: kill -9 ${pair.master.pid}; its disk is lost`)
  await pair.master.kill()
  await rm(pair.device)
  screen.held('it had no chance to say goodbye')
}

async function readBack(stage: Stage, pair: Pair): Promise<string> {
  const { screen, folder, signal } = stage
  screen.begin("The standby's copy goes on stage: understudy export; another client reads all of it")
  const socket = join(folder, 'copy.sock')
  const started = performance.now()
  const exportArgs = ['export', VOLUME, '--state', pair.standbyState, '--listen', `unix:${socket}`]
  const exporter = await ChildProgram.start('export', exportArgs, /^nbd/)
  stage.programs.push(exporter)
  screen.detail(`readable ${formatDuration(performance.now() - started)} after it was asked for`)
  const copy = join(folder, 'copy.img')
  const onProgress = (line: string): void => {
    const [done, total] = line.split('/')
    screen.bar('read', Number(done), Number(total))
  }
  await run('nbdcopy', ['--progress=3', nbdUri({ kind: 'unix', path: socket }, VOLUME), copy], { signal, onProgress })
  await exporter.end()
  screen.held(`${formatSize((await stat(copy)).size)} read through NBD from the standby alone`)
  return copy
}

async function checkCopy({ screen, folder, signal }: Stage, copy: string, manifest: Manifest): Promise<void> {
  screen.begin('The file system is checked (e2fsck -fn) and every file compared by hash')
  await run('e2fsck', ['-fn', copy], { signal })
  screen.detail('e2fsck: clean')
  const tree = join(folder, 'found')
  await mkdir(tree)
  // As an ordinary user debugfs cannot give the files to their owners and says so; the contents are what is compared.
  await run('debugfs', ['-R', `rdump / ${tree}`, copy], { signal, allowed: [1] })
  requireEqual(manifest, await manifestOf(tree))
  screen.held(`${manifest.hashes.size} of ${manifest.hashes.size} files are there and equal`)
}

// ---- helpers -----------------------------------------------------------------------------------------------------------

async function identityOf({ signal }: Stage, state: string): Promise<string> {
  const { output } = await run(process.execPath, [MAIN, 'identity', '--state', state], { signal })
  const id = /^[0-9a-f]{64}$/m.exec(output)?.[0]
  if (id === undefined)
    throw new OperationError('IDENTITY', `demo: no id in the output of 'understudy identity': ${output.trim()}`)
  return id
}

async function volumeOf(control: ControlClient): Promise<VolumeStatus> {
  const volume = (await control.status()).volumes.find(({ name }) => name === VOLUME)
  if (volume === undefined)
    throw new OperationError('NO_VOLUME', `demo: the daemon's status lacks the volume '${VOLUME}'`)
  return volume
}

async function until({ signal }: Stage, what: string, condition: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + DRAIN_LIMIT_MS
  while (!(await condition())) {
    if (signal.aborted) throw new OperationError('INTERRUPTED', 'demo: interrupted')
    if (performance.now() > end)
      throw new OperationError('TIMEOUT', `demo: ${what}: not within ${DRAIN_LIMIT_MS / 1000} s`)
    await new Promise(resolve => setTimeout(resolve, POLL_MS))
  }
}

function freeUdpPort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = createSocket('udp4')
    socket.once('error', reject)
    socket.bind(0, '127.0.0.1', () => {
      const { port } = socket.address()
      socket.close(() => resolve(port))
    })
  })
}

async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512
}
