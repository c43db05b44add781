/**
 * A VMDK descriptor ("Virtual Disk Format 5.0", VMware) of a disk whose one extent is a flat file: image.raw as it is.
 *
 * As long as that file is no cut, the descriptor has a type that no reader knows and that says so.
 */
const sectorBytes = 512n
const noCutType = 'no cut: its daemon runs, or was killed'

export interface Vmdk {
  /** A multiple of 512. */
  sizeBytes: bigint
  /** As it is found from the folder of the descriptor. */
  extent: string
  /** The volume's. */
  uuid: string
}

export function vmdkDescriptor({ sizeBytes, extent, uuid }: Vmdk, isCut: boolean): string {
  const sectors = sizeBytes / sectorBytes
  const { cylinders, heads, sectorsPerTrack } = geometry(sectors)
  // Any number but ffffffff, which would say that there is no parent.
  const contentId = uuid.replaceAll('-', '').slice(0, 7).padStart(8, '0')
  return `# Disk DescriptorFile
version=1
CID=${contentId}
parentCID=ffffffff
createType="${isCut ? 'monolithicFlat' : noCutType}"

# Extent description
RW ${sectors} FLAT "${extent}" 0

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "${cylinders}"
ddb.geometry.heads = "${heads}"
ddb.geometry.sectors = "${sectorsPerTrack}"
ddb.adapterType = "lsilogic"
`
}

/** What a BIOS is told; of larger disks it is no matter. */
function geometry(sectors: bigint): { cylinders: bigint; heads: bigint; sectorsPerTrack: bigint } {
  const [heads, sectorsPerTrack] = sectors < 2097152n ? [64n, 32n] : [255n, 63n]
  return { cylinders: sectors / (heads * sectorsPerTrack), heads, sectorsPerTrack }
}
