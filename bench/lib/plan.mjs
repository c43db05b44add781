// How long is measured, and how often.
//
// plan    { quick, shared, rounds, isRoundsAsked, seconds, slowSeconds, sizeBytes }: of the command line (options.mjs)
// A part with `slow` has peers that replicate: a rate of theirs counts over at least 30 s, as slowSeconds is unless somebody wants
// a first look. Loads that write nothing take `seconds` there too. `rounds` of a part is a maximum; it has
// `usualRounds` unless the command line says how many. `seconds` of a load: what one of its measurements takes, whatever is asked.

export const replicatedSecondsMin = 30

export function secondsOf(part, load, plan) {
  if (load.seconds !== undefined) return load.seconds
  const replicates = part.slow && load.reads !== 100
  if (plan.quick && !part.slowWhenQuick) return plan.seconds
  return replicates ? plan.slowSeconds : plan.seconds
}

export function roundsOf(part, plan) {
  const wanted = plan.isRoundsAsked ? plan.rounds : (part.usualRounds ?? plan.rounds)
  return Math.min(part.rounds ?? Infinity, wanted)
}

/** The peers of a part that are measured under a load. */
export const peersOf = (part, load) => load.peers ?? part.peers

/** About how many seconds all of it takes: what is measured, and a tenth more for starting and settling. */
export function secondsOfAll(parts, plan) {
  const ofPart = part =>
    part.loads.reduce((sum, load) => sum + secondsOf(part, load, plan) * peersOf(part, load).length, 0)
  return parts.reduce((sum, part) => sum + roundsOf(part, plan) * ofPart(part), 0) * 1.1
}
