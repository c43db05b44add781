/**
 * The footer of a fixed VHD ("Virtual Hard Disk Image Format Specification", Microsoft): 512 bytes behind the last one of
 * the disk. What is the same for the same disk: two copies of one moment are equal.
 */
import { OperationError } from '../core/errors.js'

export const vhdFooterBytes = 512

/** The format's own maximum: 2040 GiB. */
const sizeMax = 2040n << 30n

export interface VhdDisk {
  name: string
  uuid: string
  sizeBytes: bigint
}

export function vhdFooter({ name, uuid, sizeBytes }: VhdDisk): Buffer {
  if (sizeBytes % 512n !== 0n || sizeBytes > sizeMax)
    throw new OperationError(
      'NO_VHD',
      `export ${name}: a VHD has whole sectors of 512 bytes, and at most 2040 GiB; this volume has ${sizeBytes} bytes`,
    )
  const footer = Buffer.alloc(vhdFooterBytes)
  footer.write('conectix', 0, 'latin1')
  footer.writeUInt32BE(2, 8) // features: a bit that is always set
  footer.writeUInt32BE(0x10000, 12) // version 1.0 of the format
  footer.writeBigUInt64BE(0xffffffffffffffffn, 16) // no dynamic header
  footer.write('qem2', 28, 'latin1') // made so that the size counts, not the geometry, for those who look at this
  footer.writeUInt32BE(0x50003, 32)
  footer.write('Wi2k', 36, 'latin1')
  footer.writeBigUInt64BE(sizeBytes, 40)
  footer.writeBigUInt64BE(sizeBytes, 48)
  const { cylinders, heads, sectors } = geometry(Number(sizeBytes / 512n))
  footer.writeUInt16BE(cylinders, 56)
  footer.writeUInt8(heads, 58)
  footer.writeUInt8(sectors, 59)
  footer.writeUInt32BE(2, 60) // fixed
  Buffer.from(uuid.replaceAll('-', ''), 'hex').copy(footer, 68, 0, 16)
  const sum = footer.reduce((total, byte) => total + byte, 0)
  footer.writeUInt32BE(~sum >>> 0, 64)
  return footer
}

/** The specification's "CHS calculation". */
function geometry(total: number): { cylinders: number; heads: number; sectors: number } {
  const most = Math.min(total, 65535 * 16 * 255)
  if (most >= 65535 * 16 * 63) return { cylinders: Math.floor(most / (16 * 255)), heads: 16, sectors: 255 }
  let sectors = 17
  let tracks = Math.floor(most / sectors)
  let heads = Math.max(4, Math.floor((tracks + 1023) / 1024))
  if (tracks >= heads * 1024 || heads > 16) {
    sectors = 31
    heads = 16
    tracks = Math.floor(most / sectors)
  }
  if (tracks >= heads * 1024) {
    sectors = 63
    heads = 16
    tracks = Math.floor(most / sectors)
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectors }
}
