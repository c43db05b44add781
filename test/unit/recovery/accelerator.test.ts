import { test } from 'tap'

import { Accelerator } from '../../../src/recovery/accelerator.js'
import { execute, ROOT } from '../../support/daemon.js'

/** In its place: one that can be opened. */
const device = `${ROOT}/package.json`

test('KVM that QEMU dies of is not used, and that is found out once', async t => {
  let looked = 0
  const accelerator = new Accelerator(async () => ++looked === 0, device)
  t.equal(accelerator.name, 'kvm')
  await Promise.all([accelerator.look(), accelerator.look()])
  await accelerator.look()
  t.same([accelerator.name, looked], ['tcg', 1])
})

test('without QEMU nothing is known of KVM, and it is asked again', async t => {
  let looked = 0
  const accelerator = new Accelerator(async () => (++looked < 2 ? undefined : false), device)
  await accelerator.look()
  t.equal(accelerator.name, 'kvm')
  await accelerator.look()
  t.equal(accelerator.name, 'tcg')
})

test('a guest is run as this host can run it', async t => {
  const accelerator = new Accelerator()
  await accelerator.look()
  const machine = ['-machine', `q35,accel=${accelerator.name}`, '-cpu', 'max', '-m', '16M']
  const { code, stderr } = await execute(
    'sh',
    ['-c', 'echo \'{"execute":"qmp_capabilities"}{"execute":"quit"}\' | "$@" -nodefaults -display none -qmp stdio', 'sh', 'qemu-system-x86_64', ...machine], // prettier-ignore
  )
  t.equal(code, 0, stderr)
})
