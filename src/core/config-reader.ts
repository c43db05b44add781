/**
 * Reads one table of a configuration strictly: every key is asked for by name and type, what was not asked for is
 * unknown. Problems are collected, so that check-config can show all of them; readers go on with a default.
 */
import { ConfigError, UsageError } from './errors.js'
import { nearest } from './nearest.js'
import type { KeyPath } from './toml-lines.js'

/** Where the values came from, so that a message can point there. */
export interface ConfigSource {
  /** E.g. "key 'group.volume.device'" or "--device". */
  nameOf(path: KeyPath): string
  locate(path: KeyPath): { file?: string; line?: number }
}

export class Problems {
  readonly list: ConfigError[] = []
  private readonly keys = new Set<string>()

  constructor(readonly source: ConfigSource) {}

  /** Whether something is wrong with this key already. */
  has(path: KeyPath): boolean {
    return this.keys.has(path.join('.'))
  }

  add(path: KeyPath, what: string): void {
    this.keys.add(path.join('.'))
    this.list.push(new ConfigError(`${this.source.nameOf(path)}: ${what}`, this.source.locate(path)))
  }

  /** About the whole, not about one key. */
  addGeneral(what: string): void {
    const { file } = this.source.locate([])
    this.list.push(new ConfigError(what, file === undefined ? {} : { file }))
  }
}

type Values = Record<string, unknown>

export class TableReader {
  private readonly asked = new Set<string>()

  constructor(
    private readonly values: Values,
    readonly path: KeyPath,
    private readonly problems: Problems,
  ) {}

  has(key: string): boolean {
    return Object.hasOwn(this.values, key)
  }

  fail(key: string, what: string): undefined {
    this.problems.add([...this.path, key], what)
    return undefined
  }

  string(key: string): string | undefined {
    const value = this.take(key)
    if (value === undefined || (typeof value === 'string' && value !== '')) return value
    return this.fail(key, value === '' ? 'it is empty' : `it must be a string, not ${typeName(value)}`)
  }

  requiredString(key: string, example: string): string {
    if (!this.has(key)) {
      this.take(key)
      this.fail(key, `it is missing; for example ${example}`)
      return ''
    }
    return this.string(key) ?? ''
  }

  boolean(key: string, otherwise: boolean): boolean {
    const value = this.take(key)
    if (value === undefined) return otherwise
    if (typeof value === 'boolean') return value
    this.fail(key, `it must be true or false, not ${typeName(value)}`)
    return otherwise
  }

  /** A string, or a whole number where `numbers` says so, through one of the parsers of units.ts. */
  parsed<T>(key: string, parse: (text: string) => T, numbers = false): T | undefined {
    const value = this.take(key)
    if (value === undefined) return undefined
    const isNumber = numbers && typeof value === 'number' && Number.isInteger(value) && value >= 0
    if (typeof value !== 'string' && !isNumber) {
      return this.fail(key, `it must be a string${numbers ? ' or a whole number' : ''}, not ${typeName(value)}`)
    }
    return this.attempt(key, () => parse(String(value)))
  }

  oneOf<T extends string>(key: string, allowed: readonly T[], otherwise: T): T {
    const value = this.string(key)
    if (value === undefined) return otherwise
    const found = allowed.find(word => word === value)
    if (found !== undefined) return found
    const near = nearest(value, allowed)
    const hint = near === undefined ? '' : ` (did you mean '${near}'?)`
    this.fail(key, `'${value}' is not one of ${allowed.join(', ')}${hint}`)
    return otherwise
  }

  /** A list of strings; a single string stands for a list of one. */
  list<T>(key: string, parse: (text: string) => T): T[] {
    const value = this.take(key)
    if (value === undefined) return []
    const items: unknown[] = Array.isArray(value) ? value : [value]
    const parsed: T[] = []
    for (const item of items) {
      if (typeof item !== 'string') {
        this.fail(
          key,
          `it must be a list of strings, not ${Array.isArray(value) ? `one with ${typeName(item)}` : typeName(item)}`,
        )
        continue
      }
      const result = this.attempt(key, () => ({ value: parse(item) }))
      if (result !== undefined) parsed.push(result.value)
    }
    return parsed
  }

  table(key: string): TableReader | undefined {
    const value = this.take(key)
    if (value === undefined) return undefined
    if (isTable(value)) return new TableReader(value, [...this.path, key], this.problems)
    return this.fail(key, `it must be a table, written [${key}], not ${typeName(value)}`)
  }

  tables(key: string): TableReader[] {
    const value = this.take(key)
    if (value === undefined) return []
    if (Array.isArray(value) && value.every(isTable)) {
      return value.map((item, index) => new TableReader(item, [...this.path, key, index], this.problems))
    }
    this.fail(key, `it must be written [[${[...this.path.filter(isString), key].join('.')}]], once for each`)
    return []
  }

  /** All keys of a table whose keys are names. */
  names(): string[] {
    return Object.keys(this.values)
  }

  /** Whatever has not been asked for by now is unknown. */
  end(): void {
    for (const key of Object.keys(this.values)) {
      if (this.asked.has(key)) continue
      const near = nearest(key, [...this.asked])
      const hint = near === undefined ? `known here: ${[...this.asked].join(', ')}` : `did you mean '${near}'?`
      this.fail(key, `there is no such key (${hint})`)
    }
  }

  private take(key: string): unknown {
    this.asked.add(key)
    return this.has(key) ? this.values[key] : undefined
  }

  private attempt<T>(key: string, parse: () => T): T | undefined {
    try {
      return parse()
    } catch (error) {
      if (error instanceof UsageError) return this.fail(key, error.message)
      throw error
    }
  }
}

const isString = (value: unknown): value is string => typeof value === 'string'

function isTable(value: unknown): value is Values {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date)
}

function typeName(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  if (value instanceof Date) return 'a date'
  if (typeof value === 'object') return 'a table'
  if (typeof value === 'string') return 'a string'
  if (typeof value === 'boolean') return `${value}`
  return typeof value === 'number' || typeof value === 'bigint' ? `the number ${value}` : 'nothing'
}
