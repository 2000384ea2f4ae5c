//! A segment of the log as bytes: a header, and one frame for each batch.
//!
//! ```text
//! segment  magic 8, format u32, 0 u32, number u64, number of the frame before u64, crc32c of these u32, 0 u32
//! frame    payload length u32, crc32c u32, number u64, moment u64, wall clock u64, payload
//! ```
//!
//! Numbers are little-endian. The checksum of a frame is over its segment's number and everything of the frame but
//! itself, so that bytes which an earlier file left in the same place of the disk are no frames.

use crate::clock::Moment;

/// What the bytes of this version look like. A store with a higher number is refused.
pub(crate) const FORMAT: u32 = 1;

pub(crate) const SEGMENT_HEADER_BYTES: usize = 40;

/// What stands before each payload.
pub(crate) const FRAME_HEAD_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"TIDESTOR";

/// How far ahead the number of a frame behind damage may be: bounds what is searched for, and what is taken for one.
const MAX_FRAMES_LOST: u64 = 1 << 32;

/// What stands before the payload of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) number: u64,
    pub(crate) moment: Moment,
    pub(crate) wall_ms: u64,
}

/// Why a file is no segment that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSegment {
    /// It was written by a later version.
    Newer(u32),
    /// Its header was not written to the end, or not by us.
    Broken,
}

/// The header of segment `number`, in front of the frame after `last`.
pub(crate) fn segment_header(number: u64, last: u64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[16..24].copy_from_slice(&number.to_le_bytes());
    header[24..32].copy_from_slice(&last.to_le_bytes());
    let crc = crc32c::crc32c(&header[..32]);
    header[32..36].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Checks the header of a segment that should have that number, and returns the number of the frame before its first.
pub(crate) fn check_header(bytes: &[u8], number: u64) -> Result<u64, NoSegment> {
    if bytes.len() < 12 || &bytes[..8] != MAGIC {
        return Err(NoSegment::Broken);
    }
    // Whatever a later version changes, this stays where it is.
    let format = u32_at(bytes, 8);
    if format > FORMAT {
        return Err(NoSegment::Newer(format));
    }
    if bytes.len() < SEGMENT_HEADER_BYTES
        || format != FORMAT
        || u32_at(bytes, 32) != crc32c::crc32c(&bytes[..32])
        || u64_at(bytes, 16) != number
    {
        return Err(NoSegment::Broken);
    }
    Ok(u64_at(bytes, 24))
}

/// Makes room for the head of a frame; its payload follows, and then [`finish`].
pub(crate) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(FRAME_HEAD_BYTES, 0);
}

/// Fills in the head of the one frame that `out` holds.
pub(crate) fn finish(out: &mut [u8], segment: u64, head: FrameHead) {
    let length = u32::try_from(out.len() - FRAME_HEAD_BYTES).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[8..16].copy_from_slice(&head.number.to_le_bytes());
    out[16..24].copy_from_slice(&head.moment.0.to_le_bytes());
    out[24..32].copy_from_slice(&head.wall_ms.to_le_bytes());
    let crc = checksum(out, segment);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// What stands at one place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A batch, and where its payload stands.
    Frame { head: FrameHead, at: usize, payload: &'a [u8] },
    /// These many bytes are no frame, and one follows.
    Damage { at: usize, bytes: usize },
    /// From here to the end there is no frame: the write that was under way when the power went, or damage.
    Tail { at: usize, bytes: usize },
}

/// Reads the frames of a segment in order. `last` is the number of the frame before the first.
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    segment: u64,
    at: usize,
    last: u64,
}

impl<'a> Frames<'a> {
    /// The header was checked.
    pub(crate) fn new(bytes: &'a [u8], segment: u64, last: u64) -> Self {
        Self { bytes, segment, at: SEGMENT_HEADER_BYTES.min(bytes.len()), last }
    }

    fn frame_at(&self, at: usize) -> Option<(FrameHead, &'a [u8])> {
        let bytes = self.bytes.get(at..)?;
        let (head, rest) = bytes.split_at_checked(FRAME_HEAD_BYTES)?;
        let number = u64_at(head, 8);
        if number <= self.last || number - self.last > MAX_FRAMES_LOST {
            return None;
        }
        let length = usize::try_from(u32_at(head, 0)).ok()?;
        let payload = rest.get(..length)?;
        if checksum(&bytes[..FRAME_HEAD_BYTES + length], self.segment) != u32_at(head, 4) {
            return None;
        }
        Some((FrameHead { number, moment: Moment(u64_at(head, 16)), wall_ms: u64_at(head, 24) }, payload))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let at = self.at;
        if at >= self.bytes.len() {
            return None;
        }
        if let Some((head, payload)) = self.frame_at(at) {
            self.at += FRAME_HEAD_BYTES + payload.len();
            self.last = head.number;
            return Some(Found::Frame { head, at: at + FRAME_HEAD_BYTES, payload });
        }
        let next = (at + 1..self.bytes.len()).find(|&next| self.frame_at(next).is_some());
        self.at = next.unwrap_or(self.bytes.len());
        let bytes = self.at - at;
        Some(if next.is_some() { Found::Damage { at, bytes } } else { Found::Tail { at, bytes } })
    }
}

fn checksum(frame: &[u8], segment: u64) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), &frame[..4]);
    crc32c::crc32c_append(crc, &frame[8..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = segment_header(7, 0).to_vec();
        let mut frame = Vec::new();
        for (number, payload) in (1..).zip(payloads) {
            begin(&mut frame);
            frame.extend_from_slice(payload);
            finish(&mut frame, 7, FrameHead { number, moment: Moment(number), wall_ms: 0 });
            bytes.extend_from_slice(&frame);
        }
        bytes
    }

    fn payloads(bytes: &[u8]) -> Vec<Vec<u8>> {
        let found = Frames::new(bytes, 7, 0).filter_map(|found| match found {
            Found::Frame { payload, .. } => Some(payload.to_vec()),
            _ => None,
        });
        found.collect()
    }

    #[test]
    fn a_segment_cut_anywhere_holds_the_frames_before_the_cut() {
        let bytes = segment(&[b"first", b"", b"third"]);
        let whole = payloads(&bytes);
        assert_eq!(whole, [&b"first"[..], b"", b"third"]);
        let ends = [SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES + 37, SEGMENT_HEADER_BYTES + 69, bytes.len()];
        for cut in SEGMENT_HEADER_BYTES..bytes.len() {
            let frames = ends.iter().filter(|end| **end <= cut).count() - 1;
            let found: Vec<_> = Frames::new(&bytes[..cut], 7, 0).collect();
            assert_eq!(payloads(&bytes[..cut]), whole[..frames]);
            let is_torn = !ends.contains(&cut);
            assert_eq!(matches!(found.last(), Some(Found::Tail { .. })), is_torn, "{cut}");
        }
    }

    #[test]
    fn a_flipped_bit_costs_its_frame_and_no_other() {
        let bytes = segment(&[b"first", b"second", b"third"]);
        let whole = payloads(&bytes);
        for bit in SEGMENT_HEADER_BYTES * 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = payloads(&damaged);
            assert_eq!(found.len(), 2, "bit {bit}");
            assert!(found.iter().all(|payload| whole.contains(payload)));
        }
    }

    #[test]
    fn a_frame_of_another_segment_is_none() {
        let bytes = segment(&[b"first"]);
        let found: Vec<_> = Frames::new(&bytes, 8, 0).collect();
        assert_eq!(found, [Found::Tail { at: SEGMENT_HEADER_BYTES, bytes: 37 }]);
    }

    #[test]
    fn a_newer_format_is_known_whatever_else_is_different() {
        let mut header = segment_header(7, 0);
        header[8] = 2;
        assert_eq!(check_header(&header, 7), Err(NoSegment::Newer(2)));
        assert_eq!(check_header(&header[..12], 7), Err(NoSegment::Newer(2)));
        assert_eq!(check_header(&segment_header(7, 0), 7), Ok(0));
        assert_eq!(check_header(&segment_header(7, 0), 8), Err(NoSegment::Broken));
        assert_eq!(check_header(&[0; 100], 7), Err(NoSegment::Broken));
        assert_eq!(check_header(b"", 7), Err(NoSegment::Broken));
    }
}
