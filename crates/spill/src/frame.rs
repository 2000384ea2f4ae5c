//! The format on disk. A segment begins with its header, twice; then come frames, each a header and a payload.
//!
//! ```text
//! header   magic "TGSPILL" | version u8 | salt u64 | first sequence u64 | crc32c u32 | 4 zero bytes   twice 32 bytes
//! frame    marker u32 | length u32 | sequence u64 | payload crc32c u32 | crc32c u32       24 bytes, then the payload
//! ```
//!
//! Every checksum begins with the segment's salt, a random number: bytes of another segment, or a payload that somebody
//! made to look like a frame, are no frame here. Numbers are little endian.

const MAGIC: &[u8; 7] = b"TGSPILL";
/// What this code writes, and the newest that it reads.
pub(crate) const VERSION: u8 = 1;
const HEADER_COPY_BYTES: usize = 32;
/// Bytes before the first frame.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 2 * HEADER_COPY_BYTES;
/// Bytes before a payload.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
const MARKER: [u8; 4] = [0xf5, 0x7d, 0xe9, 0x1c];
/// A mark in a cursor file: the frame's offset and a checksum over it.
pub(crate) const MARK_BYTES: usize = 8;

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Known {
        salt: u64,
        first_sequence: u64,
    },
    /// Of a later version of this crate.
    Newer {
        version: u8,
    },
    Damaged,
}

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) length: u32,
    pub(crate) sequence: u64,
    payload_crc: u32,
}

pub(crate) fn segment_header(salt: u64, first_sequence: u64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut out = [0; SEGMENT_HEADER_BYTES];
    for copy in out.chunks_exact_mut(HEADER_COPY_BYTES) {
        copy[..7].copy_from_slice(MAGIC);
        copy[7] = VERSION;
        copy[8..16].copy_from_slice(&salt.to_le_bytes());
        copy[16..24].copy_from_slice(&first_sequence.to_le_bytes());
        let crc = crc32c::crc32c(&copy[..24]);
        copy[24..28].copy_from_slice(&crc.to_le_bytes());
    }
    out
}

pub(crate) fn read_segment_header(bytes: &[u8]) -> Header {
    let whole = |copy: &&[u8]| copy[..7] == *MAGIC && u32_at(copy, 24) == crc32c::crc32c(&copy[..24]);
    let copies = bytes.chunks_exact(HEADER_COPY_BYTES).take(2);
    copies.into_iter().find(whole).map_or(Header::Damaged, |copy| match copy[7] {
        VERSION => Header::Known { salt: u64_at(copy, 8), first_sequence: u64_at(copy, 16) },
        version => Header::Newer { version },
    })
}

/// Appends a frame to `out`.
pub(crate) fn put_frame(salt: u64, sequence: u64, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&salted(salt, payload).to_le_bytes());
    let crc = salted(salt, &out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Reads the frame header that `bytes` begin with, if it is whole.
pub(crate) fn read_frame_header(salt: u64, bytes: &[u8]) -> Option<FrameHeader> {
    let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
    if bytes[..4] != MARKER || u32_at(bytes, 20) != salted(salt, &bytes[..20]) {
        return None;
    }
    Some(FrameHeader { length: u32_at(bytes, 4), sequence: u64_at(bytes, 8), payload_crc: u32_at(bytes, 16) })
}

impl FrameHeader {
    /// Whether `payload` is what was written.
    pub(crate) fn fits(&self, salt: u64, payload: &[u8]) -> bool {
        payload.len() == self.length as usize && salted(salt, payload) == self.payload_crc
    }
}

/// The first place in `bytes` where a whole frame header stands.
pub(crate) fn find_frame(salt: u64, bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(MARKER.len()).position(|window| window == MARKER) {
        at += found;
        if read_frame_header(salt, &bytes[at..]).is_some() {
            return Some(at);
        }
        at += 1;
    }
    None
}

pub(crate) fn mark(salt: u64, offset: u32) -> [u8; MARK_BYTES] {
    let mut out = [0; MARK_BYTES];
    out[..4].copy_from_slice(&offset.to_le_bytes());
    out[4..].copy_from_slice(&salted(salt, &offset.to_le_bytes()).to_le_bytes());
    out
}

/// The offset in a mark, if it is whole.
pub(crate) fn read_mark(salt: u64, bytes: &[u8]) -> Option<u32> {
    let offset = bytes.get(..4)?;
    (u32_at(bytes.get(..MARK_BYTES)?, 4) == salted(salt, offset)).then(|| u32_at(bytes, 0))
}

fn salted(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
