/**
 * The smallest machine: a boot sector that reads one more sector through the BIOS, says its text on the first serial
 * line, and ends QEMU (isa-debug-exit at 0xf4, exit code 1). So a boot shows which bytes a hypervisor found deep in a disk.
 *
 *       cli; ds = es = ss = 0; sp = 0x7c00; cld
 *       mov si, dap; mov ah, 0x42; int 0x13     the text's sector to 0x7e00
 *       mov si, 0x7e00
 *   1:  lodsb; test al, al; jz 3f; mov ah, al
 *       mov dx, 0x3fd
 *   2:  in al, dx; test al, 0x20; jz 2b         the line can take one more
 *       mov al, ah; mov dx, 0x3f8; out dx, al; jmp 1b
 *   3:  xor al, al; out 0xf4, al
 *       hlt; jmp -1
 *  dap: 16, 0, 1, 0; 0:0x7e00; the sector's number
 *
 * Its bytes are in a file: the benchmark boots from them, too.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './daemon.js'

const code = Buffer.from(readFileSync(join(ROOT, 'test/support/boot-sector.hex'), 'latin1').trim(), 'hex')

export const sectorBytes = 512

/** Sector 0. */
export function bootSector(textSector: number): Buffer {
  const sector = Buffer.alloc(sectorBytes)
  code.copy(sector)
  sector.writeBigUInt64LE(BigInt(textSector), code.length)
  sector.writeUInt16LE(0xaa55, 510)
  return sector
}

export function textSector(text: string): Buffer {
  const sector = Buffer.alloc(sectorBytes)
  sector.write(text.slice(0, sectorBytes - 1), 'latin1')
  return sector
}

/** For QEMU: no display, the line on stdout. */
export const bootArguments = ['-display', 'none', '-serial', 'stdio', '-device', 'isa-debug-exit,iobase=0xf4,iosize=1']
export const bootExitCode = 1
