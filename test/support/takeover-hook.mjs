// Loaded into either side of a takeover by NODE_OPTIONS: what happens to the process at a phase that TAKEOVER_PHASE
// names. TAKEOVER_FATE: kill (SIGKILL), stop (SIGSTOP: it is there and says nothing).
//
//   successor     asked   the daemon has agreed, nothing is begun
//                 begun   it has been told to begin
//                 heir    the estate is here, nothing is open
//                 open    everything is open, and the daemon has not heard of it
//                 busy    somebody else holds its devices, for as long as it tries to open them (no fate)
//   predecessor   yours   the successor is ready, and has not been told to serve
import { fileURLToPath } from 'node:url'

const { TAKEOVER_PHASE: phase, TAKEOVER_FATE: fate } = process.env
const isDaemon = process.argv[1] === fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

if (phase !== undefined && isDaemon) {
  const { addon } = await import('../../dist/native/binding.js')
  const native = addon()
  const { channelAccept, channelSend, channelReceive } = native
  if (phase === 'busy')
    native.openGroup = () => {
      throw Object.assign(new Error('open device: it is in use'), { code: 'EBUSY' })
    }
  const meet = () => process.kill(process.pid, fate === 'stop' ? 'SIGSTOP' : 'SIGKILL')
  native.channelAccept = async (...call) => {
    const channel = await channelAccept(...call)
    if (phase === 'asked') meet()
    return channel
  }
  native.channelSend = async (channel, text, ...rest) => {
    const { type } = JSON.parse(text)
    if ((phase === 'open' && type === 'ready') || (phase === 'yours' && type === 'yours')) meet()
    await channelSend(channel, text, ...rest)
    if (phase === 'begun' && type === 'begin') meet()
  }
  native.channelReceive = async (...call) => {
    const message = await channelReceive(...call)
    if (phase === 'heir' && JSON.parse(message.text).type === 'estate') meet()
    return message
  }
}
