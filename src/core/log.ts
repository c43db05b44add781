/**
 * One line per event on stderr: `2026-01-31T12:00:00.123Z info  link: standby 1a2b connected`. Line breaks and control
 * characters of foreign text (peers, clients) are escaped, so that nobody can forge a line. Keys and user data are
 * never passed in here. LOG=debug|info|warn|error sets what is shown (default info).
 */
import { writeSync } from 'node:fs'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

const ranks: Record<LogLevel, number> = { debug: 0, info: 1, warn: 2, error: 3 }
const lineCharactersMax = 2000

export interface Logger {
  debug(message: string): void
  info(message: string): void
  warn(message: string): void
  error(message: string): void
  /** The same output under another area. */
  area(name: string): Logger
}

export type LogSink = (line: string) => void

const threshold: LogLevel = levelFrom(process.env['LOG']) ?? 'info'

function levelFrom(text: string | undefined): LogLevel | undefined {
  const level = text?.toLowerCase()
  return level !== undefined && level in ranks ? (level as LogLevel) : undefined
}

export function createLogger(area: string, sink: LogSink = toStderr): Logger {
  const at = (level: LogLevel) => (message: string) => {
    if (ranks[level] >= ranks[threshold]) sink(formatLine(new Date(), level, area, message))
  }
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    area: name => createLogger(name, sink),
  }
}

export function formatLine(time: Date, level: LogLevel, area: string, message: string): string {
  // eslint-disable-next-line no-control-regex
  const printable = message.replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029]/g, character =>
    JSON.stringify(character).slice(1, -1),
  )
  const text = printable.length > lineCharactersMax ? `${printable.slice(0, lineCharactersMax)}...` : printable
  return `${time.toISOString()} ${level.padEnd(5)} ${area}: ${text}`
}

/** Synchronous, so that the last line before the end of the process is not lost; a closed stderr is no reason to fail. */
function toStderr(line: string): void {
  try {
    writeSync(2, line + '\n')
  } catch {
    // EAGAIN of a full pipe or EPIPE: there is nowhere left to say it.
  }
}

export const log = createLogger('understudy')
