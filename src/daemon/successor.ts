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

import { sleep, systemClock } from '../core/clock.js'
import type { Config } from '../core/config-types.js'
import { describe, errnoOf, OperationError } from '../core/errors.js'
import { version } from '../core/version.js'
import type { Addon } from '../native/binding.js'
import { ControlClient } from './control-client.js'
import { Conversation, type Message } from './conversation.js'
import type { DaemonProcess } from './daemon-process.js'
import { closeEstate, type Estate } from './estate.js'
import { OtherProcess } from '../core/other-process.js'
import { shapeOf, takeoverFormat, type TakeoverReply, type TakeoverRequest } from './takeover-request.js'

const acceptMs = 10_000
/** The daemon flushes its devices first. */
const estateMs = 120_000
/** It has only to answer. */
const yoursMs = 10_000
const goneMs = 2_000
/** The daemon has only to open what it has closed. */
const backMs = 30_000
const attempts = 3
const betweenAttemptsMs = 500

/** Opening everything takes longer than clients may wait; the daemon has them back. */
class Late extends OperationError {
  constructor(message: string) {
    super('LATE', message)
  }
}

/** As takeOver(), a few times when it is only too slow. */
export async function takeOverInTime(host: DaemonProcess, maxStallMs: number): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await takeOver(host, maxStallMs)
    } catch (error) {
      if (!(error instanceof Late)) throw error
      if (attempt === attempts) throw new OperationError('TOO_SLOW', `${error.message} (${attempts} attempts)`)
      host.log.warn(`${error.message}; trying again`)
    }
    await sleep(systemClock, betweenAttemptsMs)
    host.renew()
  }
}

/** Rejects when the daemon goes on, or nobody is there; everything of this process is closed again then. */
async function takeOver(host: DaemonProcess, maxStallMs: number): Promise<void> {
  const { addon, daemon } = host
  host.ownsClients = false
  addon.start(() => undefined)
  let conversation: Conversation | undefined
  let received: Estate | undefined
  try {
    conversation = await ask(addon, daemon.configuration, maxStallMs)
    const predecessor = new OtherProcess(conversation.peer)
    await conversation.say({ type: 'begin' })
    const { estate, readyMs, waitedMs } = await heir(conversation)
    const began = systemClock.monotonicMs()
    received = estate
    await opened(daemon.take(estate), readyMs)
    await conversation.say({ type: 'ready' })
    await yours(conversation, predecessor)
    host.ownsClients = true
    received = undefined
    const adopted = daemon.adopt(estate)
    const stallMs = waitedMs + systemClock.monotonicMs() - began
    host.takeovers.stallMs = stallMs
    host.takeovers.ended('taken-over')
    await adopted
    host.log.info(
      `took over from process ${predecessor.pid}: ${estate.clients.length} clients go on, they waited ${Math.round(stallMs)} ms`,
    )
  } catch (error) {
    throw await giveBack(host, error, conversation, received)
  } finally {
    conversation?.close()
  }
}

/** In time, or Late. */
async function opened(taking: Promise<void>, readyMs: number): Promise<void> {
  const late = sleep(systemClock, readyMs).then(() => {
    throw new Late(`takeover: given up: opening everything took longer than the ${Math.round(readyMs)} ms left for it`)
  })
  late.catch(() => undefined)
  await Promise.race([taking, late])
}

/** Everything is closed, and only then the daemon is told. Returns what to say. */
async function giveBack(
  host: DaemonProcess,
  error: unknown,
  conversation: Conversation | undefined,
  received: Estate | undefined,
): Promise<unknown> {
  await host.daemon.abandon().catch((failed: unknown) => host.log.error(describe(failed)))
  if (received !== undefined) closeEstate({ ...received, lock: -1, listeners: [] }) // those were the daemon's
  const why = describe(error)
  try {
    await conversation?.say({ type: 'failed', why })
    if (!(error instanceof Late) || conversation === undefined) return error
    const answer = await conversation.hear(backMs)
    return answer.type === 'kept' ? new Late(answer.why) : error
  } catch {
    return error
  }
}

/** The daemon connects to a socket of ours while it answers. */
async function ask(addon: Addon, config: Config, maxStallMs: number): Promise<Conversation> {
  const client = new ControlClient(config.state)
  await client.health() // Says it when nobody is there, before anything is made.
  const socket = join(config.state, `takeover-${process.pid}.sock`)
  const listening = addon.listeningSocket({ kind: 'unix', path: socket, mode: 0o600 })
  try {
    const request: TakeoverRequest = { socket, format: takeoverFormat, version, shape: shapeOf(config), maxStallMs }
    await client.post<TakeoverReply>('/takeover', request)
    return new Conversation(addon, await addon.channelAccept(listening, acceptMs))
  } finally {
    rmSync(socket, { force: true })
    closeSync(listening)
  }
}

async function heir(conversation: Conversation): Promise<Extract<Message, { type: 'estate' }>> {
  const message = await conversation.hear(estateMs)
  if (message.type === 'estate') return message
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
