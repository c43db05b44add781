import { test } from 'tap'

import { machineTable } from '../../../src/cli/vm-table.js'
import type { VolumeStatus } from '../../../src/core/status-types.js'
import { machineStatus } from '../../../src/recovery/listing.js'
import type { Found } from '../../../src/recovery/machines.js'

const volumes = ['root', 'data'].map(name => ({ name, uuid: 'u', sizeBytes: 1n << 30n, folder: '/s', image: '/s/i' }))
const found: Found = {
  machine: {
    ...{ name: 'web', group: 'web', uuid: 'u', memoryBytes: 2 ** 31, cpus: 2, firmware: 'bios', bus: 'virtio' },
    ...{ qemuArguments: [], added: '2026-11-29T00:00:00.000Z', directory: '/s/.groups/web/machines' },
  },
  copy: { group: 'web', masterId: 'abcdef0123456789', directory: '/s/.groups/web', volumes },
}
const status = (name: string, change: Partial<VolumeStatus> = {}): VolumeStatus =>
  ({
    ...{
      name,
      group: 'web',
      role: 'standby',
      state: 'replicating',
      reason: '',
      usable: true,
      lagBytes: 0,
      lagSeconds: 0,
    },
    peers: [{ id: 'abcdef0123456789', address: '192.0.2.1:7400', session: 'connected', rttSeconds: null }],
    ...change,
  }) as VolumeStatus

const line = (volumes: VolumeStatus[], facts = {}): string =>
  machineTable({ machines: [machineStatus(found, volumes, facts)] }).split('\n')[1] ?? ''

test('a machine is as fresh as the worst of its disks', async t => {
  t.match(
    line([status('root'), status('data')]),
    /^web +web +2 GiB +root,data +abcdef01 192.0.2.1:7400 +current +- +- +- +-$/,
  )
  const behind = [status('root', { lagBytes: 4096, lagSeconds: 1 }), status('data', { lagBytes: 4096, lagSeconds: 2 })]
  t.match(machineStatus(found, behind, {}).freshness, { lagBytes: 8192, lagSeconds: 2, usable: true })
  t.match(line(behind), /8 KiB 2.0 s/)
  const torn = [status('root'), status('data', { usable: false, state: 'initial-sync', reason: 'the first copy' })]
  t.match(line(torn), /NOT USABLE: the first copy/)
  t.match(
    line([status('root'), status('data', { state: 'detached', reason: 'no session', peers: [] })]),
    /current; no session/,
  )
  t.match(line([status('root', { role: 'master', state: 'alone' })]), /this host +promoted/)
  const heardAt = '2026-11-29T00:00:00.000Z'
  const peers: VolumeStatus['peers'] = [
    { id: found.copy.masterId, address: '', session: 'away', rttSeconds: null, heardAt },
  ]
  t.match(machineStatus(found, [status('root', { peers })], {}).primary, { address: null, heardAt })
  t.match(line([]), /away +NOT USABLE/, 'a copy that is not open')
})

test('what others know of it is shown beside it; a volume of another group is not its own', async t => {
  const residency = { dataBytes: 1 << 30, residentBytes: 1 << 29, lockedBytes: 0, held: false, problem: '' }
  const facts = {
    run: { kind: 'machine', since: '2026-11-29T01:00:00.000Z' },
    lastDrill: { startedAt: '2026-11-29T00:00:00.000Z', passed: false, reason: 'no marker in 60 s', seconds: 60 },
  }
  t.match(
    line([status('root', { residency }), status('other', { group: 'other', usable: false })], facts),
    /current +50 % of 1 GiB +machine since \S+ +- +2026-11-29T00:00:00.000Z FAILED: no marker in 60 s$/,
  )
  t.match(line([status('root')], { lastDrill: { ...facts.lastDrill, passed: true } }), /passed in 60.0 s$/)
  const nextDrill = { dueAt: '2100-01-01T00:00:00.000Z', everySeconds: 86_400, at: '' }
  t.match(line([status('root')], { nextDrill }), / 2100-01-01T00:00:00.000Z +-$/)
  t.match(line([status('root')], { nextDrill: { ...nextDrill, dueAt: '2026-11-29T00:00:00.000Z' } }), / now +-$/)
  t.match(line([status('root')], { nextDrill: { ...nextDrill, dueAt: null } }), / not while promoted +-$/)
  t.equal(machineTable({ machines: [] }), "no machines yet: 'understudy vm add' makes one")
})
