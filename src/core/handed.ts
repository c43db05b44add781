/**
 * What a master leaves to the process that goes on in its place, beside its files. Only master/handed-group.ts looks
 * inside; everybody else passes it on.
 */
export interface Handed {
  document: object
  /** Descriptors, of whoever has this: one for each volume. */
  maps: number[]
}

export type Hand = (group: string, handed: Handed) => void
