/** A table for people: columns as wide as what is in them. */

export type Columns<T> = [string, (row: T) => string][]

/** The first line has the titles. */
export function table<T>(columns: Columns<T>, rows: readonly T[]): string[] {
  const cells = [columns.map(([title]) => title), ...rows.map(row => columns.map(([, text]) => text(row)))]
  const widths = columns.map((_, column) => Math.max(...cells.map(line => line[column]?.length ?? 0)))
  return cells.map(line =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}
