import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { exitCodeOf } from '../../../src/core/errors.js'
import { createLogger } from '../../../src/core/log.js'
import { Attachments } from '../../../src/daemon/attachments.js'
import type { NbdKernel } from '../../../src/daemon/nbd-kernel.js'
import type { ExportedVolume } from '../../../src/daemon/roles.js'
import type { Addon, AddonEvent, TakenClient } from '../../../src/native/binding.js'
import { FakeClock, settle } from '../transport/fakes.js'

/** The kernel and the engine as they answer each other; it outlives daemons. */
class Host {
  readonly notes: string[] = []
  /** By index: the identifier, and the connection that is alive. */
  readonly connected = new Map<number, { identifier: string; connection: number | undefined }>()
  readonly served = new Map<string, ExportedVolume>()
  mounted = false
  refused: string[] = []
  fails: string | undefined
  private last = 0
  private listener: (event: AddonEvent) => void = () => undefined

  constructor(readonly state: string) {
    this.serve('disk1')
  }

  serve(name: string, handle = 7): void {
    const device = { sizeBytes: 1n << 20n, blockMin: 1, blockPreferred: 4096, blockMax: 32 << 20 }
    const rest = { readOnly: false, canZero: true, isBlockDevice: false }
    this.served.set(name, { name, volume: handle, device: { ...device, ...rest }, readOnly: false, counterPage: 0 })
  }

  readonly kernel: NbdKernel = {
    pid: index => (this.connected.has(index) ? '42' : undefined),
    identifier: index => this.connected.get(index)?.identifier ?? '',
    inUse: () => this.mounted,
    setRequestTimer: () => undefined,
  }

  readonly addon: Pick<Addon, 'attachDevice' | 'detachDevice' | 'guardMemory' | 'adopt' | 'release'> = {
    guardMemory: () => {
      this.notes.push('guard')
      return this.refused
    },
    attachDevice: async ({ index, identifier, reconnect }) => {
      await Promise.resolve()
      if (this.fails !== undefined) throw Object.assign(new Error('netlink'), { code: this.fails })
      this.notes.push(`${reconnect ? 'reconnect' : 'connect'} ${index}`)
      const connection = ++this.last
      this.connected.set(index, { identifier, connection })
      return connection
    },
    detachDevice: async index => {
      await Promise.resolve()
      this.notes.push(`disconnect ${index}`)
      this.end(index, '')
      this.connected.delete(index)
    },
    adopt: (connection, volume) => void this.notes.push(`adopt ${connection} for ${volume}`),
    release: connection => void this.notes.push(`release ${connection}`),
  }

  /** As the engine tells it. */
  end(index: number, reason: string): void {
    const connection = this.connected.get(index)?.connection
    if (connection !== undefined) this.listener({ type: 'disconnected', connection, volume: 7, reason })
  }

  start(clock = new FakeClock(), handedOver: number[] = []): { attachments: Attachments; clock: FakeClock } {
    const attachments = new Attachments(this.state, {
      addon: this.addon,
      events: {
        subscribe: listener => {
          this.listener = listener
          return () => undefined
        },
      },
      log: createLogger('test', () => undefined),
      served: name => this.served.get(name),
      kernel: this.kernel,
      clock,
    })
    attachments.prepare(handedOver)
    return { attachments, clock }
  }

  /** The process is gone: what it connected has no other end any more. */
  kill(): void {
    this.listener = () => undefined
  }

  stored(): unknown[] {
    const file = JSON.parse(readFileSync(join(this.state, 'attachments.json'), 'utf8')) as { attachments: unknown[] }
    return file.attachments
  }
}

function host(t: Test): Host {
  const state = mkdtempSync(join(tmpdir(), 'attachments-'))
  t.teardown(() => rmSync(state, { recursive: true }))
  return new Host(state)
}

async function refusal(what: Promise<unknown>): Promise<{ code: number; message: string }> {
  const error = await what.then(
    () => new Error('it was done'),
    (cause: unknown) => cause,
  )
  return { code: exitCodeOf(error), message: (error as Error).message }
}

t.test(
  'a volume is attached, and the next daemon connects the same device again, guarded before anything else',
  async t => {
    const there = host(t)
    const { attachments } = there.start()
    t.same(there.notes, [], 'nothing is guarded that is not needed')
    t.same(attachments.figures(), { devices: [], guard: 'off' })
    await attachments.attach('disk1', '/dev/nbd3', 60_000)
    t.same(there.notes, ['guard', 'connect 3', 'adopt 1 for 7'])
    t.match(attachments.list(), [{ device: '/dev/nbd3', volume: 'disk1', state: 'connected', reason: '' }])
    const figures = { volume: 'disk1', device: '/dev/nbd3', connected: true, reconnects: 0 }
    t.same(attachments.figures(), { devices: [figures], guard: 'on' })

    there.kill()
    there.notes.length = 0
    there.serve('disk1', 9)
    const next = there.start().attachments
    t.same(there.notes, ['guard'])
    t.match(next.list(), [{ state: 'waiting' }])
    t.match(next.figures(), { devices: [{ connected: false, reconnects: 0 }], guard: 'on' }, 'at the first scrape')
    next.sync()
    await settle()
    t.same(there.notes, ['guard', 'reconnect 3', 'adopt 2 for 9'])
    t.match(next.list(), [{ state: 'connected' }])
    t.match(next.figures(), { devices: [{ connected: true, reconnects: 1 }] })
    there.refused = ['mlockall: EPERM']
    t.equal(there.start().attachments.figures().guard, 'partial', 'what the kernel refuses is no guard')
  },
)

t.test('a takeover hands the connection of the kernel on, and asks the kernel for none', async t => {
  const there = host(t)
  const { attachments } = there.start()
  await attachments.attach('disk1', '/dev/nbd3', 60_000)
  const client = { connection: 1 } as TakenClient
  const other = { connection: 99 } as TakenClient
  const clients = attachments.among([
    { name: 'disk1', client: other },
    { name: 'disk1', client },
  ])
  t.same(clients, [
    { name: 'disk1', client: other },
    { name: 'disk1', client, attached: 3 },
  ])

  there.notes.length = 0
  const next = there.start(new FakeClock(), [3])
  next.attachments.sync()
  await next.clock.advance(5_000)
  t.match(next.attachments.list(), [{ state: 'waiting' }])
  next.attachments.inherit(3, 12)
  next.attachments.sync()
  await next.clock.advance(5_000)
  t.match(next.attachments.list(), [{ state: 'connected' }])
  t.match(next.attachments.figures(), { devices: [{ connected: true, reconnects: 0 }] }, 'nobody has waited')
  t.same(there.notes, ['guard'])
})

t.test('after the host was restarted the device is connected as at first', async t => {
  const there = host(t)
  await there.start().attachments.attach('disk1', '/dev/nbd0', 60_000)
  there.kill()
  there.connected.clear()
  there.start().attachments.sync()
  await settle()
  t.same(there.notes.slice(-2), ['connect 0', 'adopt 2 for 7'])
})

t.test('a device, and a volume, is attached once; a device that somebody else has connected is left alone', async t => {
  const there = host(t)
  there.serve('disk2', 8)
  there.connected.set(5, { identifier: 'theirs', connection: undefined })
  const { attachments } = there.start()
  await attachments.attach('disk1', '/dev/nbd0', 60_000)
  for (const [volume, device] of [
    ['disk1', '/dev/nbd1'],
    ['disk2', '/dev/nbd0'],
    ['disk2', '/dev/nbd5'],
  ] as const)
    t.equal((await refusal(attachments.attach(volume, device, 1))).code, 3, `${volume} as ${device}`)
  t.equal(attachments.list().length, 1)

  // It was disconnected and connected by another while the daemon was away.
  there.kill()
  there.connected.set(0, { identifier: 'theirs', connection: undefined })
  const next = there.start().attachments
  next.sync()
  await settle()
  t.match(next.list(), [{ state: 'waiting', reason: /in use/ }])
  t.equal(await next.detach('disk1', true), '/dev/nbd0')
  t.notOk(there.notes.includes('disconnect 0'), 'what is theirs stays')
})

t.test('what does not come about leaves nothing behind, and says what to do', async t => {
  const there = host(t)
  const { attachments } = there.start()
  for (const [errno, code, words] of [
    ['ENOENT', 1, /modprobe nbd/],
    ['EPERM', 1, /root/],
    ['EBUSY', 3, /in use/],
  ] as const) {
    there.fails = errno
    const { code: found, message } = await refusal(attachments.attach('disk1', '/dev/nbd0', 1))
    t.equal(found, code, errno)
    t.match(message, words)
    t.same(there.stored(), [])
  }
  t.equal((await refusal(attachments.attach('other', '/dev/nbd0', 1))).code, 1)
  t.equal((await refusal(attachments.attach('disk1', '/dev/sda', 1))).code, 2)
})

t.test(
  'a kernel that does not answer is waited for in vain for a time, and what it connects later is let go of',
  async t => {
    const there = host(t)
    const { attachments, clock } = there.start()
    const attach = there.addon.attachDevice.bind(there.addon)
    let answer = (): void => undefined
    there.addon.attachDevice = async spec => {
      await new Promise<void>(resolve => (answer = resolve))
      return attach(spec)
    }
    const refused = refusal(attachments.attach('disk1', '/dev/nbd0', 60_000))
    await clock.advance(20_000)
    t.match(await refused, { code: 1, message: /does not answer/ })
    t.same(there.stored(), [])
    answer()
    await settle()
    t.same(there.notes, ['guard', 'connect 0', 'release 1', 'disconnect 0'])
  },
)

t.test('a connection that ends is made again; a volume that is not served is waited for', async t => {
  const there = host(t)
  const { attachments, clock } = there.start()
  await attachments.attach('disk1', '/dev/nbd0', 60_000)
  there.fails = 'ENOSPC'
  there.end(0, 'it stalls')
  t.match(attachments.list(), [{ state: 'waiting', reason: 'it stalls' }])
  await clock.advance(5_000)
  there.fails = undefined
  attachments.sync()
  attachments.sync()
  await clock.advance(5_000)
  t.match(attachments.list(), [{ state: 'connected' }])
  t.equal(there.notes.filter(note => note.startsWith('reconnect')).length, 1, 'whatever asks for it')

  there.served.clear()
  there.end(0, 'the group is closed')
  await clock.advance(10_000)
  t.match(attachments.list(), [{ state: 'waiting', reason: /not served/ }])
  there.serve('disk1', 11)
  attachments.sync()
  await settle()
  t.equal(there.notes.at(-1), 'adopt 3 for 11')
})

t.test(
  'detach: not while it is in use; afterwards nothing is connected again. So when somebody else disconnects it',
  async t => {
    const there = host(t)
    const { attachments, clock } = there.start()
    await attachments.attach('disk1', '/dev/nbd0', 60_000)
    there.mounted = true
    t.equal((await refusal(attachments.detach('/dev/nbd0', false))).code, 3)
    there.mounted = false
    t.equal(await attachments.detach('disk1', false), '/dev/nbd0')
    t.same(there.stored(), [])
    await clock.advance(10_000)
    t.equal(there.notes.at(-1), 'disconnect 0')

    await attachments.attach('disk1', '/dev/nbd0', 60_000)
    there.end(0, '')
    t.same(attachments.list(), [])
    t.same(there.stored(), [])
  },
)

t.test('a damaged list is not taken for an empty one', async t => {
  const there = host(t)
  writeFileSync(join(there.state, 'attachments.json'), '{"attachments":[{"index":"0"}]}')
  t.throws(() => there.start(), { message: /no attachment/ })
})
