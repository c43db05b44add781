/** One image of the store, as whoever keeps it in memory sees it (recovery/residency.ts). */
export interface StandbyImage {
  volume: string
  path: string
  /** It is a cut: before that nobody would read it, and it is only written through. */
  isUsable: boolean
  /** It was promoted, and clients write to it. */
  isServed: boolean
  /** Replay has records for its group that it has not applied yet. */
  isPending: boolean
  /** How far replay is; of one that is not replayed 0. */
  applied: bigint
}
