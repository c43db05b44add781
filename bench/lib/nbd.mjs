// A client of one export at a unix socket, one request at a time; enough to write a volume and to see its last block.
import { connect } from 'node:net'

const commands = { read: 0, write: 1, disconnect: 2, flush: 3 }
const [exportNameOption, noZeroes] = [1, 3]

/** Rejects when nobody listens there, or the export is not there (yet). */
export async function attach(path, name) {
  const socket = connect(path)
  const take = reader(socket)
  await take(18)
  const option = Buffer.alloc(20)
  option.writeUInt32BE(noZeroes, 0)
  option.write('IHAVEOPT', 4, 'latin1')
  option.writeUInt32BE(exportNameOption, 12)
  option.writeUInt32BE(name.length, 16)
  socket.write(Buffer.concat([option, Buffer.from(name)]))
  const sizeBytes = Number((await take(10)).readBigUInt64BE(0))
  let cookie = 0n
  const send = (type, offset, length, data = []) => {
    const header = Buffer.alloc(28)
    header.writeUInt32BE(0x25609513, 0)
    header.writeUInt16BE(type, 6)
    header.writeBigUInt64BE(++cookie, 8)
    header.writeBigUInt64BE(BigInt(offset), 16)
    header.writeUInt32BE(length, 24)
    for (const part of [header, ...data]) socket.write(part)
  }
  const answer = async length => {
    const error = (await take(16)).readUInt32BE(4)
    if (error !== 0) throw new Error(`nbd: error ${error}`)
    return length > 0 ? await take(length) : undefined
  }
  return {
    sizeBytes,
    read: (offset, length) => (send(commands.read, offset, length), answer(length)),
    flush: () => (send(commands.flush, 0, 0), answer(0)),
    /** All of them, `depth` at a time. */
    async write(offsets, data, depth = 32) {
      for (let at = 0; at < offsets.length; at += depth) {
        const some = offsets.slice(at, at + depth)
        for (const offset of some) send(commands.write, offset, data.length, [data])
        for (let left = some.length; left > 0; left--) await answer(0)
      }
    },
    close: () => socket.destroy(),
  }
}

/** take(n): the next n bytes, in order of the calls. */
function reader(socket) {
  let [have, wanted, failure] = [Buffer.alloc(0), undefined, undefined]
  const serve = () => {
    if (wanted === undefined) return
    const { length, resolve, reject } = wanted
    if (have.length >= length) {
      wanted = undefined
      resolve(have.subarray(0, length))
      have = have.subarray(length)
    } else if (failure !== undefined) {
      wanted = undefined
      reject(failure)
    }
  }
  socket.on('data', data => ((have = have.length > 0 ? Buffer.concat([have, data]) : data), serve()))
  socket.on('error', error => ((failure = error), serve()))
  socket.on('close', () => ((failure ??= new Error('nbd: the connection was closed')), serve()))
  return length => new Promise((resolve, reject) => ((wanted = { length, resolve, reject }), serve()))
}
