"""A reader of snapshot files made from engine/src/snapshot/FORMAT.md alone: `python3 reader.py FILE` prints one line of what is in it,
or fails. The test `a_reader_in_python_reads_the_fixture` runs it."""

import struct
import sys

TABLE = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def crc(data):
    c = 0xFFFFFFFF
    for b in data:
        c = TABLE[(c ^ b) & 255] ^ c >> 8
    return c ^ 0xFFFFFFFF


def lz4(block, size):
    out, at = bytearray(), 0

    def more(length):
        nonlocal at
        while length >= 15:
            length += block[at]
            at += 1
            if block[at - 1] != 255:
                break
        return length

    while at < len(block):
        token = block[at]
        at += 1
        literals = more(token >> 4)
        out += block[at : at + literals]
        at += literals
        if at == len(block):
            break
        back = block[at] | block[at + 1] << 8
        at += 2
        for _ in range(more(token & 15) + 4):
            out.append(out[-back])
    assert len(out) == size, "a block of another length"
    return bytes(out)


def read(data):
    head = data[:4096]
    assert head[:8] == b"LDSNAP\r\n", "magic"
    version, header_crc = struct.unpack_from("<II", head, 8)
    assert header_crc == crc(head[:12] + head[16:]) and version == 1, "header"
    numbers = struct.unpack_from("<9Q6I", head, 16)
    id, group, index, term, config_index, sessions, content, stored, file_bytes = numbers[:9]
    life, size, content_crc, chunks_crc, compression, config = numbers[9:]
    assert file_bytes == len(data), "length"
    assert chunks_crc == crc(data[4096:]), "chunks"
    payload = b""
    count = -(-stored // (size - 32))
    for n in range(count):
        place = 4096 + n * size
        chunk = data[place : place + size]
        chunk_crc, length, chunk_id, number, offset = struct.unpack_from("<IIQQQ", chunk)
        assert chunk_crc == crc(chunk[4:]), "chunk"
        assert (chunk_id, number, offset) == (id, n, place), "place"
        assert length == (size - 32 if n < count - 1 else stored - n * (size - 32)), "payload"
        assert not any(chunk[32 + length :]), "padding"
        payload += chunk[32 : 32 + length]
    if compression == 1:
        blocks, at = b"", 0
        while at < len(payload):
            whole, kept = struct.unpack_from("<II", payload, at)
            block = payload[at + 8 : at + 8 + kept]
            blocks += block if kept == whole else lz4(block, whole)
            at += 8 + kept
        payload = blocks
    assert len(payload) == content and content_crc == crc(payload), "content"
    voters = struct.unpack_from(f"<{head[130]}I", head, 134)
    assert config >= 6
    return group, life, index, term, config_index, voters, sessions, content - sessions


print(*read(open(sys.argv[1], "rb").read()))
