/**
 * A qcow2 file whose data is all in another one, as raw as it was (the incompatible feature "external data file" with the
 * autoclear feature "raw external data"; docs/interop/qcow2.txt of QEMU). The file is metadata alone: every cluster of the
 * disk is at the same place in the data file.
 *
 *   cluster 0   header, and its extensions: the name of the data file, names of features
 *   cluster 1   refcount table     cluster 2   its one block
 *   cluster 3   L1 table           cluster 4.. L2 tables
 *
 * Clusters are as large as they can be, 2 MiB: the metadata takes 8 bytes for each, 256 KiB for 64 GiB; the rest is holes.
 *
 * As long as the data file is no cut, the header has an incompatible feature that no reader knows, and that has a name: so
 * none opens it, and the name is what QEMU says.
 */
import { closeSync, fdatasyncSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'

const clusterBits = 21
const clusterBytes = 1 << clusterBits
const entryBytes = 8
const entriesPerTable = clusterBytes / entryBytes
const headerBytes = 104
const headerPageBytes = 4096

const at = { refcountTable: 1, refcountBlock: 2, l1: 3, l2: 4 }

const externalData = 1n << 2n
const rawExternalData = 1n << 1n
const noCutBit = 63
const noCut = 1n << BigInt(noCutBit)
/** At most 46 bytes. */
const noCutName = 'no cut: its daemon runs, or was killed'

const extension = { dataFile: 0x44415441, featureNames: 0x6803f857 }
const incompatibleAt = 72

export interface Qcow2 {
  /** A multiple of 512. */
  sizeBytes: bigint
  /** Absolute; at most 1000 bytes. */
  dataFile: string
}

/** Makes the file, marked as no cut. `path` is the caller's alone. */
export function makeQcow2(path: string, image: Qcow2): void {
  const descriptor = openSync(path, 'w', 0o600)
  try {
    ftruncateSync(descriptor, (at.l2 + tablesOf(image)) * clusterBytes)
    for (const { offset, bytes } of [{ offset: 0, bytes: header(image) }, ...tables(image)])
      writeAt(descriptor, bytes, offset)
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

/**
 * Durable when it returns. False: the file is not the one that makeQcow2() would make, and has not become a cut: it is
 * another disk's, or a hypervisor that wrote to it has left clusters out of the tables.
 */
export function markQcow2(path: string, image: Qcow2, isCut: boolean): boolean {
  const descriptor = openSync(path, 'r+')
  try {
    const wanted = header(image)
    const found = readAt(descriptor, wanted.length, 0)
    const bits = found.readBigUInt64BE(incompatibleAt)
    // What follows the features by default is QEMU's to change.
    const same = (from: number, to: number): boolean => found.subarray(from, to).equals(wanted.subarray(from, to))
    if (!same(0, incompatibleAt) || !same(headerBytes, dataFileEnd(image))) return false
    const whole = (): boolean =>
      tables(image).every(({ offset, bytes }) => readAt(descriptor, bytes.length, offset).equals(bytes))
    if (isCut && !whole()) return false
    const wantedBits = externalData | (isCut ? 0n : noCut)
    if (bits === wantedBits) return true
    const changed = Buffer.alloc(8)
    changed.writeBigUInt64BE(wantedBits)
    writeAt(descriptor, changed, incompatibleAt)
    fdatasyncSync(descriptor)
    return true
  } finally {
    closeSync(descriptor)
  }
}

function header(image: Qcow2): Buffer {
  const { sizeBytes, dataFile } = image
  const page = Buffer.alloc(headerPageBytes)
  page.write('QFI\xfb', 0, 'latin1')
  page.writeUInt32BE(3, 4) // version
  page.writeUInt32BE(clusterBits, 20)
  page.writeBigUInt64BE(sizeBytes, 24)
  page.writeUInt32BE(tablesOf(image), 36)
  page.writeBigUInt64BE(clusterOffset(at.l1), 40)
  page.writeBigUInt64BE(clusterOffset(at.refcountTable), 48)
  page.writeUInt32BE(1, 56) // clusters of the refcount table
  page.writeBigUInt64BE(externalData | noCut, incompatibleAt)
  page.writeBigUInt64BE(rawExternalData, 88)
  page.writeUInt32BE(4, 96) // refcounts of 2^4 bits
  page.writeUInt32BE(headerBytes, 100)
  const name = Buffer.from(dataFile)
  page.writeUInt32BE(extension.dataFile, headerBytes)
  page.writeUInt32BE(name.length, headerBytes + 4)
  name.copy(page, headerBytes + 8)
  const features = dataFileEnd({ dataFile })
  page.writeUInt32BE(extension.featureNames, features)
  page.writeUInt32BE(48, features + 4)
  page.writeUInt8(0, features + 8) // of the incompatible ones
  page.writeUInt8(noCutBit, features + 9)
  page.write(noCutName, features + 10)
  return page
}

const dataFileEnd = ({ dataFile }: Pick<Qcow2, 'dataFile'>): number =>
  headerBytes + 8 + Math.ceil(Buffer.byteLength(dataFile) / 8) * 8

const clustersOf = ({ sizeBytes }: Qcow2): number =>
  Number((sizeBytes + BigInt(clusterBytes) - 1n) >> BigInt(clusterBits))

const tablesOf = (image: Qcow2): number => Math.ceil(clustersOf(image) / entriesPerTable)

const clusterOffset = (cluster: number): bigint => BigInt(cluster) << BigInt(clusterBits)

/** All but the header. */
function tables(image: Qcow2): { offset: number; bytes: Buffer }[] {
  const [clusters, count] = [clustersOf(image), tablesOf(image)]
  const refcounts = Buffer.alloc(2 * (at.l2 + count))
  for (let cluster = 0; cluster < at.l2 + count; cluster++) refcounts.writeUInt16BE(1, 2 * cluster)
  const refcountTable = Buffer.alloc(entryBytes)
  refcountTable.writeBigUInt64BE(clusterOffset(at.refcountBlock))
  const l2 = Array.from({ length: count }, (_, table) => ({
    offset: (at.l2 + table) * clusterBytes,
    bytes: entries(table * entriesPerTable, Math.min(entriesPerTable, clusters - table * entriesPerTable)),
  }))
  return [
    { offset: at.refcountTable * clusterBytes, bytes: refcountTable },
    { offset: at.refcountBlock * clusterBytes, bytes: refcounts },
    { offset: at.l1 * clusterBytes, bytes: entries(at.l2, count) },
    ...l2,
  ]
}

/** Of a table: clusters one after the other, from `first` on, each used once (the highest bit). */
function entries(first: number, count: number): Buffer {
  const table = Buffer.alloc(count * entryBytes)
  for (let index = 0; index < count; index++) {
    const offset = (first + index) * clusterBytes
    table.writeUInt32BE((Math.floor(offset / 2 ** 32) | 0x80000000) >>> 0, index * entryBytes)
    table.writeUInt32BE(offset % 2 ** 32, index * entryBytes + 4)
  }
  return table
}

function readAt(descriptor: number, length: number, offset: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let done = 0; done < length;) {
    const read = readSync(descriptor, bytes, done, length - done, offset + done)
    if (read === 0) break // what is not there is zero
    done += read
  }
  return bytes
}

function writeAt(descriptor: number, bytes: Buffer, offset: number): void {
  for (let done = 0; done < bytes.length;)
    done += writeSync(descriptor, bytes, done, bytes.length - done, offset + done)
}
