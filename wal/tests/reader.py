"""Reads a log as wal/FORMAT.md describes it: python3 reader.py DIRECTORY prints its entries, states and compactions."""
import os, struct, sys

TABLE = list(range(256))
for _ in range(8):
    TABLE = [n >> 1 ^ (0x82F63B78 if n & 1 else 0) for n in TABLE]

def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF

def records(file, at, length, count, lsn):
    found, place = [], 64
    for _ in range(count):
        stored, size, widths = struct.unpack_from("<IIB", file, at + place)
        field, values = at + place + 9, []
        for n in range(4):
            width = 1 << (widths >> 2 * n & 3)
            values.append(int.from_bytes(file[field:field + width], "little"))
            field += width
        payload = file[field:field + (size & 0xFFFFFFF)]
        end = place + (field + len(payload) - at - place + 7) // 8 * 8
        seed = (lsn + place) * 0x9E3779B97F4A7C15 % 2**64 >> 32
        if end > length or crc32c(struct.pack("<I", seed) + file[at + place + 4:at + end]) != stored:
            return None
        found.append((size >> 28, *values, payload, stored))
        place = end
    return found

def segments(directory):
    for name in sorted(os.listdir(directory)):
        if name.startswith("wal-") and name.endswith(".seg"):
            file = open(os.path.join(directory, name), "rb").read()
            magic, version, crc, log, incarnation, size, start = struct.unpack_from("<8sIIQQQQ", file)
            if incarnation == int(name[4:20], 16) and magic == b"LDSEGMNT" and version == 2 and size == len(file):
                assert crc32c(file[:12] + bytes(4) + file[16:128]) == crc, name
                yield incarnation, start, struct.unpack_from("<Q", file, 48)[0], crc, file

def read(directory):
    chain = list(segments(directory))
    for number, (incarnation, start, _, link, file) in enumerate(chain):
        limit = next((s for i, s, before, _, _ in chain if before == incarnation), None)
        at = 4096
        while at + 64 <= len(file) and (limit is None or start + at - 4096 < limit):
            magic, length, inc, lsn, _, before, crc, count, digest = struct.unpack_from("<4sIQQQIIII", file, at)
            if (magic, inc, lsn, before) != (b"LDB2", incarnation, start + at - 4096, link) or crc32c(file[at:at + 36] + bytes(4) + file[at + 40:at + 64]) != crc:
                break
            found, digested = records(file, at, length, count, lsn), 0
            for record in found or []:
                digested = ((digested << 5 | digested >> 27) & 0xFFFFFFFF ^ record[-1]) * 0x9E3779B1 % 2**32
            if found is None or digested != digest:
                break
            yield from found
            link, at = crc, at + (length + 4095) // 4096 * 4096

for kind, stream, index, tag, note, payload, _ in read(sys.argv[1]):
    if kind in (1, 2, 3):
        print({1: "entry", 2: "state", 3: "compacted"}[kind], stream, index, tag, note, payload.hex())
