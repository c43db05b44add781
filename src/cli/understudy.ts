#!/usr/bin/env node
/** The program understudy. */
import { demoCommand } from './demo.js'
import { createProgram, runProgram } from './program.js'

// `understudy status | head -1`: a reader that has gone is no error of ours, least of all in a daemon.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)

process.exitCode = await runProgram(createProgram([demoCommand()]), process.argv, line =>
  process.stderr.write(line + '\n'),
)
