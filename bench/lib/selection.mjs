// Which parts, loads and peers a run has.

/** `names`: parts and peers (--only); undefined: all. Null when one of them is unknown. */
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
    .map(part => ({
      ...part,
      figures: part.figures.filter(({ load }) => part.loads.some(({ name }) => name === load)),
    }))
    .filter(part => part.peers.length > 0 && part.loads.length > 0)
}
