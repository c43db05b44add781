import { test } from 'tap'

import { vhdFooter } from '../../../src/standby/vhd-footer.js'

const disk = { name: 'disk1', uuid: '6f0b2c1e-6f5a-4d6e-9a53-3f1e1c8b7a10', sizeBytes: 64n << 20n }

test('the footer of a fixed VHD says the exact size and its own checksum', async t => {
  const footer = vhdFooter(disk)
  t.equal(footer.length, 512)
  t.equal(footer.toString('latin1', 0, 8), 'conectix')
  t.equal(footer.readBigUInt64BE(48), disk.sizeBytes)
  t.equal(footer.toString('hex', 68, 84), disk.uuid.replaceAll('-', ''))
  const sum = footer.readUInt32BE(64)
  footer.writeUInt32BE(0, 64)
  t.equal(~footer.reduce((total, byte) => total + byte, 0) >>> 0, sum)
})

test('the geometry is that of the specification', async t => {
  const geometry = (sizeBytes: bigint): number[] => {
    const footer = vhdFooter({ ...disk, sizeBytes })
    return [footer.readUInt16BE(56), footer.readUInt8(58), footer.readUInt8(59)]
  }
  t.same(geometry(64n << 20n), [963, 8, 17])
  t.same(geometry(1n << 30n), [2080, 16, 63])
  t.same(geometry(100n << 30n), [51400, 16, 255])
  t.same(geometry(2040n << 30n), [65535, 16, 255])
})

test('a size that the format cannot say is refused', async t => {
  t.throws(() => vhdFooter({ ...disk, sizeBytes: 1000n }), { code: 'NO_VHD' })
  t.throws(() => vhdFooter({ ...disk, sizeBytes: (2040n << 30n) + 512n }), { code: 'NO_VHD', message: /2040 GiB/ })
})
