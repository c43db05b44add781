/**
 * understudy run --takeover: this process goes on in place of the daemon that runs on the same state directory.
 *
 *   1. everything that needs no device is loaded and checked   2. the daemon is asked (POST /takeover), and refuses or not
 *   3. it hands over its estate; devices and copies are opened  4. `ready`, and when it has answered `yours`: its clients
 *      are this process's
 *
 * Until 4 nothing is answered, and whatever goes wrong is closed again and told: the daemon goes on. When the daemon
 * dies between 3 and 4 nobody else has the clients: they are this process's then.
 */
import { closeSync, rmSync } from 'node:fs'
import { join } from 'node:path'

import { systemClock } from '../core/clock.js'
import type { Config } from '../core/config-types.js'
import { describe, errnoOf, OperationError } from '../core/errors.js'
import { version } from '../core/version.js'
import type { Addon } from '../native/binding.js'
import { ControlClient } from './control-client.js'
import { Conversation } from './conversation.js'
import type { DaemonProcess } from './daemon-process.js'
import type { Estate } from './estate.js'
import { OtherProcess } from './other-process.js'
import { shapeOf, takeoverFormat, type TakeoverReply, type TakeoverRequest } from './takeover-request.js'

const acceptMs = 10_000
/** The daemon flushes its devices first. */
const estateMs = 120_000
/** It has only to answer. */
const yoursMs = 10_000
const goneMs = 2_000

/** Rejects when the daemon goes on, or nobody is there; everything of this process is closed again then. */
export async function takeOver(host: DaemonProcess): Promise<void> {
  const { addon, daemon } = host
  host.ownsClients = false
  addon.start(() => undefined)
  let conversation: Conversation | undefined
  try {
    conversation = await ask(addon, daemon.configuration)
    const predecessor = new OtherProcess(conversation.peer)
    await conversation.say({ type: 'begin' })
    const estate = await heir(conversation)
    await daemon.take(estate)
    await conversation.say({ type: 'ready' })
    await yours(conversation, predecessor)
    host.ownsClients = true
    await daemon.adopt(estate)
    host.log.info(`took over from process ${predecessor.pid}: ${estate.clients.length} clients go on`)
  } catch (error) {
    await daemon.release().catch((failed: unknown) => host.log.error(describe(failed)))
    await conversation?.say({ type: 'failed', why: describe(error) }).catch(() => undefined)
    throw error
  } finally {
    conversation?.close()
  }
}

/** The daemon connects to a socket of ours while it answers. */
async function ask(addon: Addon, config: Config): Promise<Conversation> {
  const client = new ControlClient(config.state)
  await client.health() // Says it when nobody is there, before anything is made.
  const socket = join(config.state, `takeover-${process.pid}.sock`)
  const listening = addon.listeningSocket({ kind: 'unix', path: socket, mode: 0o600 })
  try {
    const request: TakeoverRequest = { socket, format: takeoverFormat, version, shape: shapeOf(config) }
    await client.post<TakeoverReply>('/takeover', request)
    return new Conversation(addon, await addon.channelAccept(listening, acceptMs))
  } finally {
    rmSync(socket, { force: true })
    closeSync(listening)
  }
}

async function heir(conversation: Conversation): Promise<Estate> {
  const message = await conversation.hear(estateMs)
  if (message.type === 'estate') return message.estate
  throw new OperationError(
    'KEPT',
    message.type === 'kept' ? message.why : `takeover: the daemon says '${message.type}'`,
  )
}

async function yours(conversation: Conversation, predecessor: OtherProcess): Promise<void> {
  try {
    const message = await conversation.hear(yoursMs)
    if (message.type === 'yours') return
    throw new OperationError(
      'KEPT',
      `takeover: the daemon goes on: ${message.type === 'kept' ? message.why : message.type}`,
    )
  } catch (error) {
    // It says so before it takes anything back: without a word it can only have died.
    if (errnoOf(error) !== 'ECONNRESET' || !(await predecessor.gone(systemClock, goneMs))) throw error
  }
}
