/**
 * Every failure the program knows about is an UnderstudyError: a code for programs, one line for people, and the exit
 * status it leads to. A message names the action, the thing and the number or what to do; the cause is kept.
 */

/** 1: it failed; 2: wrong usage or configuration; 3: refused for safety. */
export type ExitCode = 1 | 2 | 3

export interface ErrorOptions {
  cause?: unknown
}

export class UnderstudyError extends Error {
  readonly code: string
  readonly exitCode: ExitCode

  constructor(code: string, message: string, options: ErrorOptions & { exitCode?: ExitCode } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = new.target.name
    this.code = code
    this.exitCode = options.exitCode ?? 1
  }
}

/** The operation was well asked for and did not succeed. */
export class OperationError extends UnderstudyError {
  constructor(code: string, message: string, options: ErrorOptions = {}) {
    super(code, message, { ...options, exitCode: 1 })
  }
}

/** A flag, argument or name that cannot be meant. */
export class UsageError extends UnderstudyError {
  constructor(message: string, options: ErrorOptions & { code?: string } = {}) {
    super(options.code ?? 'USAGE', message, { cause: options.cause, exitCode: 2 })
  }
}

/** `file` and `line` (from 1) are part of the message: "FILE:LINE: key 'x.y': what is wrong". */
export class ConfigError extends UnderstudyError {
  readonly file: string | undefined
  readonly line: number | undefined

  constructor(what: string, where: { file?: string; line?: number } & ErrorOptions = {}) {
    const place = where.file === undefined ? '' : `${where.file}:${where.line === undefined ? '' : `${where.line}:`} `
    super('CONFIG', place + what, { cause: where.cause, exitCode: 2 })
    this.file = where.file
    this.line = where.line
  }
}

/** Going on could destroy or expose data (generation, fencing, in use, key readable by others). */
export class SafetyRefusal extends UnderstudyError {
  constructor(code: string, message: string, options: ErrorOptions = {}) {
    super(code, message, { ...options, exitCode: 3 })
  }
}

/** An errno of the system or of the addon, turned into a sentence. `code` is the errno's name. */
export class NativeError extends UnderstudyError {
  constructor(action: string, cause: unknown) {
    super(errnoOf(cause) ?? 'NATIVE', `${action}: ${describe(cause)}`, { cause, exitCode: 1 })
  }
}

const errnoSentences: Record<string, string> = {
  EACCES: 'permission denied',
  EADDRINUSE: 'the address is in use by another program; choose another one or stop that program',
  EADDRNOTAVAIL: 'this host has no such address',
  EBUSY: 'it is in use (mounted, or opened by another program); unmount or stop that first',
  ECONNREFUSED: 'nothing listens there',
  EEXIST: 'it is there already',
  EISDIR: 'it is a directory',
  ENODEV: 'no such device',
  ENOENT: 'it does not exist',
  ENOMEM: 'not enough memory',
  ENOSPC: 'no space left',
  ENOTDIR: 'a part of the path is not a directory',
  ENXIO: 'no such device or address',
  EPERM: 'not permitted',
  EROFS: 'it is read-only',
}

/** The errno's name carried by an error of node or of the addon. */
export function errnoOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined
}

/** One line for people: known errnos as a sentence, everything else by its own message. */
export function describe(error: unknown): string {
  if (error instanceof UnderstudyError) return error.message
  const errno = errnoOf(error)
  const sentence = errno === undefined ? undefined : errnoSentences[errno]
  if (errno !== undefined && sentence !== undefined) return `${sentence} (${errno})`
  const text = error instanceof Error ? error.message || error.name : String(error)
  return text.replace(/\s*\n\s*/g, ' ')
}

/** The same failure, as one of what was asked for: `vm start web: promote disk1: the master is not connected ...`. */
export function failureOf(action: string, error: unknown): UnderstudyError {
  const code = error instanceof UnderstudyError ? error.code : (errnoOf(error) ?? 'FAILED')
  return new UnderstudyError(code, `${action}: ${describe(error)}`, { exitCode: exitCodeOf(error), cause: error })
}

/** What `task` throws is a failure of `action`. */
export function attempt<T>(action: string, task: () => T): T {
  try {
    return task()
  } catch (error) {
    throw failureOf(action, error)
  }
}

export function exitCodeOf(error: unknown): ExitCode {
  return error instanceof UnderstudyError ? error.exitCode : 1
}
