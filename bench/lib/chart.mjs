// A result as a picture (SVG): a bar for each figure, from the line of what is asked to what was found, on a scale on
// which twice and half are equally far. Reads on light and dark pages.
import { cell, units, wanted } from './text.mjs'
import { margin } from './verdict.mjs'

const rowHeight = 22
const top = 64
const barsFrom = 680
const barsWidth = 420
const reach = 4 // the scale goes from 1/4 to 4 times what is asked; longer bars end in an arrow

const colours = { good: '#1a7f37', missed: '#cf222e', void: '#cf222e' }
const escape = text => String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;')
const x = times =>
  barsFrom + (barsWidth / 2) * (1 + Math.log(Math.min(reach, Math.max(1 / reach, times))) / Math.log(reach))

export function chart(document) {
  const figures = document.parts.flatMap(part => part.figures).filter(({ state }) => state !== 'absent')
  const height = top + figures.length * rowHeight + 24
  const width = barsFrom + barsWidth + 190
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12">`,
    `<style>text{fill:#1f2328}.faint{fill:#656d76}.grid{stroke:#d0d7de}.asked{stroke:#1f2328}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.faint{fill:#8d96a0}.grid{stroke:#30363d}.asked{stroke:#e6edf3}}</style>`,
    `<text x="8" y="20" font-size="15" font-weight="600">What was asked, and what was found</text>`,
    `<text x="8" y="38" class="faint">${escape(document.machine.processor)}, ${document.machine.cores} cores shared by client, master and standby; ${escape(document.machine.time.slice(0, 10))}</text>`,
    ...scale(height),
    ...figures.flatMap(bar),
    `</svg>`,
    '',
  ].join('\n')
}

function scale(height) {
  return [0.25, 0.5, 1, 2, 4].flatMap(times => [
    `<line x1="${x(times)}" x2="${x(times)}" y1="${top - 8}" y2="${height - 20}" class="${times === 1 ? 'asked' : 'grid'}"/>`,
    `<text x="${x(times)}" y="${top - 14}" text-anchor="middle" class="faint">${times === 1 ? 'asked' : times < 1 ? `1/${1 / times}` : `${times} x better`}</text>`,
  ])
}

function bar(figure, index) {
  const y = top + index * rowHeight
  const text = `${figure.text}: ${figure.load.replace(/ random| sequential/, '')}`
  const lines = [`<text x="${barsFrom - 10}" y="${y + 13}" text-anchor="end">${escape(text)}</text>`]
  const times = figure.value === null ? null : margin(figure, figure.value.median)
  if (times !== null) {
    const [from, to] = [x(Math.min(1, times)), x(Math.max(1, times))]
    lines.push(
      `<rect x="${from.toFixed(1)}" y="${y + 3}" width="${Math.max(2, to - from).toFixed(1)}" height="13" rx="2" fill="${colours[figure.state]}"/>`,
    )
  }
  const found = figure.value === null ? 'void' : cell({ ...figure.value, count: 1 }, units[figure.unit])
  lines.push(
    `<text x="${barsFrom + barsWidth + 10}" y="${y + 13}" fill="${colours[figure.state]}">${escape(`${found}, ${wanted(figure)}`)}</text>`,
  )
  return lines
}
