"""The PTX that nvcc embedded in an object file or a program.

nvcc writes one fat binary per .cu file into the ELF section .nv_fatbin: a header, then one entry per
architecture. Only what is checked here is trusted: sizes are compared with the section before they are used.
"""
import struct

FATBIN_MAGIC = 0xBA55ED50
PTX_ENTRY = 1  # the other kind that nvcc writes, 2, is machine code
COMPRESSED_FLAGS = 0x3000 | 0x8000  # LZ4 and Zstandard


class FatbinError(Exception):
    """The file is not what nvcc writes with --compress-mode=none."""


def elf_section(data, wanted):
    """Bytes of the section called `wanted` of a 64-bit little-endian ELF file; b'' where it has none."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise FatbinError("no 64-bit little-endian ELF file")
    offset, = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + i * entry_size) for i in range(count)]
    names = headers[names_index][4]
    for name, _, _, _, begin, size in headers:
        end = data.index(b"\0", names + name)
        if data[names + name:end] == wanted.encode():
            if begin + size > len(data):
                raise FatbinError(f"section {wanted} ends behind the file")
            return data[begin:begin + size]
    return b""


def ptx_of_fatbins(section):
    """(compute capability such as 80, PTX bytes) of every entry, in the order of the section."""
    found, at = [], 0
    while at + 16 <= len(section):
        magic, _, header_size, size = struct.unpack_from("<IHHQ", section, at)
        if magic != FATBIN_MAGIC:  # padding between the fat binaries of a linked program
            at += 8
            continue
        end = at + header_size + size
        if end > len(section):
            raise FatbinError("a fat binary ends behind its section")
        at += header_size
        while at < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", section, at)
            capability, = struct.unpack_from("<I", section, at + 28)
            flags, = struct.unpack_from("<Q", section, at + 40)
            if entry_header < 64 or at + entry_header + entry_size > end:
                raise FatbinError("an entry ends behind its fat binary")
            if kind == PTX_ENTRY:
                if flags & COMPRESSED_FLAGS:
                    raise FatbinError("the PTX is compressed; compile with --compress-mode=none")
                text = section[at + entry_header:at + entry_header + entry_size]
                found.append((capability, text.rstrip(b"\0")))
            at += entry_header + entry_size
    return found


def embedded_ptx(path):
    """(compute capability, PTX bytes) of everything that nvcc embedded in the ELF file at `path`."""
    with open(path, "rb") as file:
        return ptx_of_fatbins(elf_section(file.read(), ".nv_fatbin"))
