/**
 * How many NBD connections a daemon has, over all its listeners: those that negotiate and those in transmission. One
 * more pushes out the one that has negotiated longest, so that stalling clients cannot lock others out.
 * A connection counts from entered() until left(), or until its volume is gone, which ends it without a word.
 */
interface Counted {
  /** The volume's handle; undefined: it negotiates. */
  volume?: number
  drop: (why: string) => void
}

export class ConnectionLimit {
  /** In the order they came. */
  private readonly open = new Map<number, Counted>()

  constructor(
    readonly max: number,
    private readonly volumeIsOpen: (handle: number) => boolean,
  ) {}

  /** False: all are in transmission. */
  makeRoom(): boolean {
    if (this.open.size >= this.max) this.forgetClosed()
    if (this.open.size < this.max) return true
    for (const [connection, { volume, drop }] of this.open) {
      if (volume !== undefined) continue
      this.open.delete(connection)
      drop(`${this.max} clients are connected or negotiate, and this one had been negotiating longest`)
      return true
    }
    return false
  }

  entered(connection: number, drop: (why: string) => void): void {
    this.open.set(connection, { drop })
  }

  adopted(connection: number, volume: number): void {
    const counted = this.open.get(connection)
    if (counted !== undefined) counted.volume = volume
  }

  left(connection: number): void {
    this.open.delete(connection)
  }

  private forgetClosed(): void {
    for (const [connection, { volume }] of this.open)
      if (volume !== undefined && !this.volumeIsOpen(volume)) this.open.delete(connection)
  }
}
