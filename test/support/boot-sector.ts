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
 */
const code = Buffer.from(
  'fa31c08ed88ec08ed0bc007cfcbe357cb442cd13be007eac84c0741288c4bafd03eca82074fb88e0baf803eeebe930c0e6f4f4ebfd100001' +
    '00007e0000',
  'hex',
)

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
