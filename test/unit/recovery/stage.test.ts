import t from 'tap'
import { ConsoleTail } from '../../../src/recovery/console.js'
import { forwardedPort, isEstablished } from '../../../src/recovery/guest-port.js'
import { requireQemu } from '../../../src/recovery/qemu.js'
import { withoutNetwork } from '../../../src/recovery/stage.js'

void t.test('a copy of a machine meets nobody: its arguments lose every network, and nothing else', async t => {
  const args = ['-nic', 'bridge,br=br0', '-m', '2G', '-netdev', 'tap,id=n', '-device', 'virtio-net-pci,netdev=n', '-device', 'virtio-rng-pci', '--net', 'nic', '-snapshot'] // prettier-ignore
  t.same(withoutNetwork(args), ['-m', '2G', '-device', 'virtio-rng-pci', '-snapshot'])
})

void t.test('a marker is found wherever the console is cut into pieces, once', async t => {
  let found = 0
  const tail = new ConsoleTail('web1 login:', () => found++)
  for (const piece of ['booting\r\nweb', '1 log', 'in:', ' web1 login:']) tail.feed(Buffer.from(piece))
  t.equal(found, 1)
})

void t.test('the last lines are plain text, and a console without end keeps what fits', async t => {
  const tail = new ConsoleTail()
  for (let line = 0; line < 20_000; line++) tail.feed(Buffer.from(`line ${line}\r\n`))
  tail.feed(Buffer.from('\x1b[31mred\x1b[0m\x07 ü\r\n\r\n'))
  t.same(tail.lastLines(2), ['line 19999', 'red ü'])
  t.ok(tail.lastLines(Infinity).length < 10_000)
})

void t.test('a port of the guest answers once the guest has accepted, not when QEMU has', async t => {
  const list = 'Hub -1 (drill):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n'
  const forward = '  TCP[HOST_FORWARD]  12       127.0.0.1 40001       10.0.2.15    22     0     0\n'
  const asked = '  TCP[SYN_SENT]      14       127.0.0.1 40001       10.0.2.15    22     0     0\n'
  t.equal(forwardedPort(list, 22), undefined)
  t.equal(forwardedPort(list + forward, 22), 40001)
  t.notOk(isEstablished(list + forward + asked, 22))
  t.ok(isEstablished(list + asked.replace('SYN_SENT', 'ESTABLISHED'), 22))
  t.notOk(isEstablished(list + asked.replace('SYN_SENT', 'ESTABLISHED'), 2))
})

void t.test('where QEMU is missing, its package is named', async t => {
  t.throws(() => requireQemu('vm drill web', '/nowhere'), {
    exitCode: 1,
    message:
      /^vm drill web: qemu-system-x86_64 is not installed; it is in the package qemu-system-x86: apt-get install/,
  })
})
