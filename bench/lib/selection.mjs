// Which parts, loads and peers a run has.
import { peersOf } from './plan.mjs'

/**
 * `names`: parts and peers (--only); undefined: all. Null when one of them is unknown. With --quick a part that says so
 * (`judgedWhenQuick`) measures of each load only the peers that a figure compares.
 */
export function chosen(parts, plan, names) {
  const isPart = name => parts.some(part => part.name === name)
  const isPeer = name => parts.some(part => part.peers.includes(name))
  if (names?.some(name => !isPart(name) && !isPeer(name))) return null
  const onlyParts = names?.filter(isPart) ?? []
  const onlyPeers = names?.filter(name => !isPart(name)) ?? []
  return parts
    .filter(part => onlyParts.length === 0 || onlyParts.includes(part.name))
    .map(part => ({
      ...part,
      peers: part.peers.filter(name => onlyPeers.length === 0 || onlyPeers.includes(name)),
      loads: part.loads.filter(load => load.quick || !plan.quick),
    }))
    .map(part => (plan.quick && part.judgedWhenQuick ? { ...part, loads: part.loads.map(judgedOnly(part)) } : part))
    .map(part => ({
      ...part,
      figures: part.figures.filter(({ load }) => part.loads.some(({ name }) => name === load)),
    }))
    .filter(part => part.peers.length > 0 && part.loads.length > 0)
}

const judgedOnly = part => load => {
  const figures = part.figures.filter(figure => figure.load === load.name)
  const compared = figures.flatMap(({ peer, against }) => [peer, ...(against ?? [])])
  return { ...load, peers: peersOf(part, load).filter(name => compared.includes(name)) }
}
