/** "Did you mean": the known word closest to what was typed, if it is close enough to be meant. */

export function nearest(word: string, known: readonly string[]): string | undefined {
  const plain = normalize(word)
  let best: { candidate: string; distance: number } | undefined
  for (const candidate of known) {
    const distance = editDistance(plain, normalize(candidate))
    if (distance <= Math.max(1, Math.floor(candidate.length / 3)) && (best === undefined || distance < best.distance)) {
      best = { candidate, distance }
    }
  }
  return best?.candidate
}

const normalize = (word: string): string => word.slice(0, 64).toLowerCase().replace(/-/g, '_')

/** Optimal string alignment: insert, remove, replace, swap neighbours cost one each. */
function editDistance(from: string, to: string): number {
  const rows: number[][] = [Array.from({ length: to.length + 1 }, (_, column) => column)]
  const at = (row: number, column: number): number => rows[row]?.[column] ?? Infinity
  for (let row = 1; row <= from.length; row++) {
    const line = [row]
    rows.push(line)
    for (let column = 1; column <= to.length; column++) {
      const same = from[row - 1] === to[column - 1]
      let cost = Math.min(at(row - 1, column) + 1, at(row, column - 1) + 1, at(row - 1, column - 1) + (same ? 0 : 1))
      const swapped = row > 1 && column > 1 && from[row - 1] === to[column - 2] && from[row - 2] === to[column - 1]
      if (swapped) cost = Math.min(cost, at(row - 2, column - 2) + 1)
      line.push(cost)
    }
  }
  return at(from.length, to.length)
}
