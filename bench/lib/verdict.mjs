// Judges a figure (figures.mjs says what one is) by the samples of its rounds.
import { paired, spread } from './statistics.mjs'

const combinations = {
  ratio: (a, b) => a / b,
  difference: (a, b) => a - b,
}

/** The one of these peers with the highest median rate; null if none was measured. */
export function strongest(names, samples) {
  const median = name => spread(values(samples[name], 'rate'))?.median ?? 0
  const measured = names.filter(name => (samples[name]?.length ?? 0) > 0)
  return measured.reduce((best, name) => (best === null || median(name) > median(best) ? name : best), null)
}

/**
 * samples[peer] = one sample a round. Returns { value: spread or null, against, state, voids }; state: good, missed, void
 * (a sample of the judged peer is void, or none is left), or absent (a peer of it was not measured).
 */
export function judge(figure, samples) {
  const own = samples[figure.peer] ?? []
  const against = figure.against === undefined ? null : strongest(figure.against, samples)
  if (own.length === 0 || (figure.against !== undefined && against === null))
    return { value: null, against, state: 'absent', voids: [] }
  const voids = own.map(sample => sample.void ?? null).filter(reason => reason !== null)
  const mine = values(own, figure.measure)
  const found =
    against === null
      ? mine
      : paired(
          mine,
          values(samples[against], figure.againstMeasure ?? figure.measure),
          combinations[figure.compare ?? 'ratio'],
        )
  const value = spread(found, figure.percent)
  const state = voids.length > 0 || value === null ? 'void' : meets(figure, value.median) ? 'good' : 'missed'
  return { value, against, state, voids }
}

/** How many times as good as asked: 1 is just enough; null where that says nothing. */
export function margin(figure, value) {
  if (figure.atLeast !== undefined) return value / figure.atLeast
  return value > 0 ? figure.atMost / value : null
}

function meets(figure, value) {
  return (
    (figure.atLeast === undefined || value >= figure.atLeast) && (figure.atMost === undefined || value <= figure.atMost)
  )
}

function values(samples, measure) {
  return (samples ?? []).map(sample => ((sample.void ?? null) !== null ? null : (sample[measure] ?? null)))
}
