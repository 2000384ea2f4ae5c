//! A ledger as a file: written only at its end while a run goes on, and read by whoever verifies it.
//!
//! Publishers are numbers, and each counts its messages from 0 without a gap. The file is a head (eight bytes that name
//! the format, and when the run began) and blocks, each with its length and CRC-32C. A block says for some publishers up
//! to which number they have sent and which ranges were acknowledged to them since the block before: a few bytes for a
//! publisher, however many messages those are. The last block says that the run has ended; where it is missing, the
//! process was killed, and what it sent in its last moments may not be noted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use crate::Ledger;

const FORMAT: &[u8; 8] = b"TGLEDG01";
/// Format and start.
const HEAD_BYTES: usize = 16;
/// Length and checksum of a block.
const BLOCK_HEAD_BYTES: usize = 8;
const NOTES: u8 = 1;
const END: u8 = 2;
/// Messages of one publisher: what a reader has room for, a bit each.
const MAX_NUMBER: u64 = 1 << 36;
/// Notes that a writing thread gathers before it must append them, in number.
pub const NOTES_AT_ONCE: usize = 1 << 16;

/// What one thread has yet to append.
#[derive(Debug, Default, Clone)]
pub struct Notes {
    sent: Vec<(u32, u64)>,
    acknowledged: Vec<(u32, u64)>,
    block: Vec<u8>,
}

impl Notes {
    /// Notes that a publisher sends that number, and has sent all below it.
    pub fn sent(&mut self, publisher: u32, seq: u64) {
        self.sent.push((publisher, seq));
    }

    /// Notes that a number was acknowledged to a publisher.
    pub fn acknowledged(&mut self, publisher: u32, seq: u64) {
        self.acknowledged.push((publisher, seq));
    }

    /// Whether there are so many that they should be appended now: [`NOTES_AT_ONCE`].
    pub fn is_full(&self) -> bool {
        self.sent.len() + self.acknowledged.len() >= NOTES_AT_ONCE
    }

    /// Returns the notes as a block, and forgets them; `None` if there are none.
    fn take_block(&mut self) -> Option<&[u8]> {
        if self.sent.is_empty() && self.acknowledged.is_empty() {
            return None;
        }
        self.sent.sort_unstable();
        self.acknowledged.sort_unstable();
        self.block.clear();
        self.block.resize(BLOCK_HEAD_BYTES, 0);
        self.block.push(NOTES);
        let (mut sent, mut acknowledged) = (&self.sent[..], &self.acknowledged[..]);
        while let Some(publisher) =
            [sent.first(), acknowledged.first()].into_iter().flatten().map(|n| n.0).min()
        {
            let own_sent = take_own(&mut sent, publisher);
            let own_acknowledged = take_own(&mut acknowledged, publisher);
            put(&mut self.block, u64::from(publisher));
            put(&mut self.block, own_sent.last().map_or(0, |&(_, seq)| seq + 1));
            let ranges = ranges(own_acknowledged);
            put(&mut self.block, ranges.len() as u64);
            let mut from = 0;
            for range in ranges {
                put(&mut self.block, range.start - from);
                put(&mut self.block, range.end - range.start);
                from = range.end;
            }
        }
        self.sent.clear();
        self.acknowledged.clear();
        seal(&mut self.block);
        Some(&self.block)
    }
}

/// Splits the notes of that publisher off the front.
fn take_own<'a>(notes: &mut &'a [(u32, u64)], publisher: u32) -> &'a [(u32, u64)] {
    let (own, rest) = notes.split_at(notes.partition_point(|note| note.0 <= publisher));
    *notes = rest;
    own
}

/// Joins sorted numbers to ranges; one that is noted twice counts once.
fn ranges(notes: &[(u32, u64)]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for &(_, seq) in notes {
        match ranges.last_mut() {
            Some(last) if seq < last.end => {}
            Some(last) if seq == last.end => last.end += 1,
            _ => ranges.push(seq..seq + 1),
        }
    }
    ranges
}

/// Appends to a ledger's file. Threads share it by reference.
#[derive(Debug)]
pub struct Writer(Mutex<File>);

impl Writer {
    /// Creates the file. `started_ns` is when the run began, in nanoseconds since 1970.
    ///
    /// # Errors
    /// Also when the file exists: a ledger is never overwritten.
    pub fn create(path: &Path, started_ns: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().append(true).create_new(true).open(path)?;
        let mut head = FORMAT.to_vec();
        head.extend_from_slice(&started_ns.to_be_bytes());
        file.write_all(&head)?;
        Ok(Self(Mutex::new(file)))
    }

    /// Appends what is noted, as one block. It waits for no disk: the file outlives its process, not its machine.
    ///
    /// # Errors
    /// When the file does not take it; the notes are gone then, and the file is cut off.
    pub fn append(&self, notes: &mut Notes) -> io::Result<()> {
        notes.take_block().map_or(Ok(()), |block| self.write(block))
    }

    /// Says that all has been noted, and waits until it is on disk.
    ///
    /// # Errors
    /// When the file does not take it.
    pub fn finish(&self) -> io::Result<()> {
        let mut block = vec![0; BLOCK_HEAD_BYTES];
        block.push(END);
        seal(&mut block);
        self.write(&block)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sync_all()
    }

    fn write(&self, block: &[u8]) -> io::Result<()> {
        // Nothing that could panic happens under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(block)
    }
}

/// Fills in length and checksum of a block.
fn seal(block: &mut [u8]) {
    let (head, body) = block.split_at_mut(BLOCK_HEAD_BYTES);
    let len = u32::try_from(body.len()).expect("notes are bounded far below 4 GiB");
    head[..4].copy_from_slice(&len.to_be_bytes());
    head[4..].copy_from_slice(&crc32c::crc32c(body).to_be_bytes());
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What a file says besides its notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// When the run began, in nanoseconds since 1970: what was sent before belongs to another.
    pub started_ns: u64,
    /// The run came to its end, and all is noted.
    pub complete: bool,
}

/// Why a file is no ledger.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file could not be read.
    #[error("cannot read the ledger: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as a ledger does.
    #[error("not a ledger")]
    Format,
    /// A block is not as it was written, and it is not the last.
    #[error("the ledger is damaged at byte {at}")]
    Damaged {
        /// Where the block begins.
        at: usize,
    },
}

/// Adds what a file notes to a ledger. What was being written when its process was killed is left out.
///
/// # Errors
/// When it can't be read or is no ledger; the ledger then holds a part of it.
pub fn read(path: &Path, ledger: &mut Ledger<u32>) -> Result<Origin, ReadError> {
    parse(&std::fs::read(path)?, ledger)
}

fn parse(bytes: &[u8], ledger: &mut Ledger<u32>) -> Result<Origin, ReadError> {
    let head = bytes.get(..HEAD_BYTES).ok_or(ReadError::Format)?;
    let started = head.strip_prefix(FORMAT).and_then(|started| started.first_chunk());
    let started_ns = u64::from_be_bytes(*started.ok_or(ReadError::Format)?);
    let (mut at, mut complete) = (HEAD_BYTES, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let Some((head, rest)) = rest.split_first_chunk::<BLOCK_HEAD_BYTES>() else { break };
        let (len, checksum) = head.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |number, &byte| number << 8 | u32::from(byte));
        let Some(body) = rest.get(..number(len) as usize) else { break };
        let is_last = body.len() == rest.len();
        let sound = crc32c::crc32c(body) == number(checksum) && !complete;
        match body.split_first() {
            Some((&END, [])) if sound => complete = true,
            Some((&NOTES, notes)) if sound => take_notes(notes, ledger).ok_or(ReadError::Damaged { at })?,
            _ if is_last => break,
            _ => return Err(ReadError::Damaged { at }),
        }
        at += BLOCK_HEAD_BYTES + body.len();
    }
    Ok(Origin { started_ns, complete })
}

/// Adds the notes of a block; `None` where they make no sense.
fn take_notes(mut notes: &[u8], ledger: &mut Ledger<u32>) -> Option<()> {
    while !notes.is_empty() {
        let publisher = u32::try_from(take(&mut notes)?).ok()?;
        ledger.sent_all(&publisher, 0..within(take(&mut notes)?)?);
        let mut from = 0_u64;
        for _ in 0..take(&mut notes)? {
            let start = within(from.checked_add(take(&mut notes)?)?)?;
            let end = within(start.checked_add(take(&mut notes)?)?)?;
            ledger.acknowledged_all(&publisher, start..end);
            from = end;
        }
    }
    Some(())
}

fn within(number: u64) -> Option<u64> {
    (number <= MAX_NUMBER).then_some(number)
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Found, Verifier};

    /// Publishers with a number of theirs.
    type Numbered<'a> = &'a [(u32, u64)];

    /// Blocks as a writer appends them: what was sent, and what was acknowledged.
    fn bytes(blocks: &[(Numbered<'_>, Numbered<'_>)], end: bool) -> Vec<u8> {
        let mut bytes = FORMAT.to_vec();
        bytes.extend_from_slice(&77_u64.to_be_bytes());
        let mut notes = Notes::default();
        for (sent, acknowledged) in blocks {
            sent.iter().for_each(|&(publisher, seq)| notes.sent(publisher, seq));
            acknowledged.iter().for_each(|&(publisher, seq)| notes.acknowledged(publisher, seq));
            bytes.extend_from_slice(notes.take_block().unwrap_or_default());
        }
        if end {
            let mut block = vec![0; BLOCK_HEAD_BYTES];
            block.push(END);
            seal(&mut block);
            bytes.extend(block);
        }
        bytes
    }

    fn read_back(bytes: &[u8]) -> (Ledger<u32>, Origin) {
        let mut ledger = Ledger::new();
        let origin = parse(bytes, &mut ledger).unwrap();
        (ledger, origin)
    }

    proptest! {
        #[test]
        fn what_was_noted_is_what_is_read(
            sent in prop::collection::vec((0_u32..5, 0_u64..300), 0..60),
            acknowledged in prop::collection::vec((0_u32..5, 0_u64..300), 0..60),
            at in 0_usize..60,
        ) {
            let (at_sent, at_acknowledged) = (at.min(sent.len()), at.min(acknowledged.len()));
            let blocks = [
                (&sent[..at_sent], &acknowledged[..at_acknowledged]),
                (&sent[at_sent..], &acknowledged[at_acknowledged..]),
            ];
            let (read, origin) = read_back(&bytes(&blocks, true));
            prop_assert_eq!(origin, Origin { started_ns: 77, complete: true });
            for publisher in 0..5 {
                let entries = read.publishers.get(&publisher).cloned().unwrap_or_default();
                let own = |notes: &[(u32, u64)]| {
                    notes.iter().filter(|note| note.0 == publisher).map(|note| note.1).collect::<Vec<_>>()
                };
                let sent_to = own(&sent).into_iter().max().map_or(0, |seq| seq + 1);
                prop_assert_eq!(entries.sent.iter().collect::<Vec<_>>(), (0..sent_to).collect::<Vec<_>>());
                let mut expected = own(&acknowledged);
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(entries.acknowledged.iter().collect::<Vec<_>>(), expected);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(noise in prop::collection::vec(any::<u8>(), 0..200), sealed: bool) {
            let mut bytes = bytes(&[(&[(1, 1)], &[])], false);
            let at = bytes.len();
            bytes.extend([0; BLOCK_HEAD_BYTES]);
            bytes.push(NOTES);
            // Numbers that are huge only because they are noise cost memory, not correctness: keep them small here.
            bytes.extend(noise.iter().map(|byte| if sealed { byte & 0x7F } else { *byte }));
            if sealed {
                seal(&mut bytes[at..]);
            }
            let _ = parse(&bytes, &mut Ledger::new());
        }
    }

    #[test]
    fn a_file_that_was_cut_off_holds_what_was_whole_and_says_that_it_has_no_end() {
        let whole = bytes(&[(&[(1, 0)], &[]), (&[], &[(1, 0)])], true);
        let first = bytes(&[(&[(1, 0)], &[])], false).len();
        for cut in HEAD_BYTES..whole.len() {
            let (ledger, origin) = read_back(&whole[..cut]);
            assert!(!origin.complete, "cut at {cut}");
            assert_eq!(ledger.sent_count(), u64::from(cut >= first), "cut at {cut}");
        }
        assert!(read_back(&whole).1.complete);
        for cut in 0..HEAD_BYTES {
            assert!(matches!(parse(&whole[..cut], &mut Ledger::new()), Err(ReadError::Format)));
        }
    }

    #[test]
    fn a_changed_byte_before_the_last_block_is_damage() {
        let whole = bytes(&[(&[(1, 0)], &[]), (&[], &[(1, 0)])], true);
        let first = bytes(&[(&[(1, 0)], &[])], false).len();
        for at in HEAD_BYTES + 4..first {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(
                matches!(parse(&changed, &mut Ledger::new()), Err(ReadError::Damaged { at: HEAD_BYTES })),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_file_written_by_threads_verifies_and_is_never_overwritten() {
        let path = std::env::temp_dir().join(format!("tidegate-ledger-{}", std::process::id()));
        let writer = Writer::create(&path, 1).unwrap();
        std::thread::scope(|scope| {
            for publisher in 0..4 {
                let writer = &writer;
                scope.spawn(move || {
                    let mut notes = Notes::default();
                    for seq in 0..1000 {
                        notes.sent(publisher, seq);
                        notes.acknowledged(publisher, seq);
                        if seq % 10 == 0 {
                            writer.append(&mut notes).unwrap();
                        }
                    }
                    writer.append(&mut notes).unwrap();
                });
            }
        });
        writer.finish().unwrap();
        assert_eq!(Writer::create(&path, 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let mut ledger = Ledger::new();
        assert!(read(&path, &mut ledger).unwrap().complete);
        std::fs::remove_file(&path).unwrap();
        assert_eq!((ledger.sent_count(), ledger.acknowledged_count(), ledger.publishers()), (4000, 4000, 4));
        let mut verifier = Verifier::new(&ledger);
        for (offset, seq) in (0..1000).zip(0..) {
            verifier.record(Found { partition: 0, offset, key: None, message: Some((3, seq)) });
        }
        assert_eq!(verifier.finish().loss, 3000);
    }
}
