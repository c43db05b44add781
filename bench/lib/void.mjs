// When a measurement counts for nothing.

/**
 * `before` and `after` are what a replicating peer says of itself when applied = written: { detaches, logBytes }; null
 * for a peer that does not replicate, or does so before it answers. Returns the reason, or null.
 */
export function voidReason(before, after) {
  if (before === null || after === null) return null
  if (after.detaches !== before.detaches) return 'detached'
  if (after.logBytes > before.logBytes) return 'log fuller than before'
  return null
}

/**
 * How long a replicated load took: until everything was applied, never less than what the client itself needed. A peer
 * whose answers mean that both sides have it needs no more than the client.
 */
export function secondsUntilApplied(found, after) {
  if (after === null) return found.seconds
  return Math.max(found.seconds, (after.atMs - found.beganMs) / 1000)
}

/** `kind`: the file system, xfs or ext4. What was measured must have had several epochs, of the kind that this one makes; or why not. */
export function historyVoidReason(kind, { epochs, clonedEpochs, savedMiB }) {
  if (epochs < 3) return `${epochs} epochs only`
  if (kind === 'xfs' && clonedEpochs < 1) return 'no epoch had clones'
  if (kind === 'ext4' && (clonedEpochs > 0 || savedMiB < 1)) return 'no blocks were saved'
  return null
}
