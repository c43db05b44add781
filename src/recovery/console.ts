/**
 * What a machine prints on its serial console: the last of it, and whether a marker has come. Bounded: a machine that
 * prints without end keeps what fits, and no more.
 */
import { StringDecoder } from 'node:string_decoder'

const keptCharacters = 64 << 10
const lineCharactersMax = 200

export class ConsoleTail {
  #text = ''
  #found = false
  readonly #decoder = new StringDecoder('utf8')

  /** `marker`: '' for none. `found`: called once, when it was printed. */
  constructor(
    private readonly marker = '',
    private readonly found: () => void = () => undefined,
  ) {}

  feed(chunk: Buffer): void {
    const text = this.#text + this.#decoder.write(chunk)
    if (this.marker !== '' && !this.#found && text.includes(this.marker)) {
      this.#found = true
      this.found()
    }
    this.#text = text.slice(-keptCharacters)
  }

  /** As people see them: without what moves a cursor or sets a colour. */
  lastLines(count: number): string[] {
    return this.#text
      .split(/\r*\n/)
      .map(line => printable(line).trimEnd().slice(0, lineCharactersMax))
      .filter(line => line !== '')
      .slice(-count)
  }
}

/** Without ECMA-48's control sequences and control characters. */
const printable = (line: string): string =>
  // eslint-disable-next-line no-control-regex
  line.replace(/\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])/g, '').replace(/[\x00-\x08\x0b-\x1f\x7f]/g, '')
