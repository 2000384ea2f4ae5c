//! What a log that was left behind still holds.

use std::collections::HashSet;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, read_full};
use crate::frame::{
    FRAME_HEADER_BYTES, Header, MARK_BYTES, SEGMENT_HEADER_BYTES, find_frame, read_frame_header, read_mark,
    read_segment_header,
};
use crate::{EntryId, OpenError};

/// What was found when a log was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Entries that are not done, all of which were handed to the caller.
    pub entries: u64,
    /// Bytes of these entries.
    pub bytes: u64,
    /// Entries that can't be read any more, by their numbers: bytes of the log have changed since they were written.
    /// The caller never sees them, nor anything in their place.
    pub damaged: Vec<RangeInclusive<u64>>,
    /// Bytes at the ends of segments that are no entries: what was being written when the process or the machine
    /// stopped. Nobody was told that they are safe.
    pub torn_bytes: u64,
}

/// A segment that was read.
pub(crate) struct Found {
    pub(crate) number: u32,
    pub(crate) salt: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Entries that are not done.
    pub(crate) live: u32,
    pub(crate) bytes: u64,
    pub(crate) cursor: Option<(Arc<dyn DiskFile>, u64)>,
}

/// The names of a segment's files.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:08x}.seg")
}

pub(crate) fn cursor_name(number: u32) -> String {
    format!("{number:08x}.done")
}

fn number_in(name: &str, suffix: &str) -> Option<u32> {
    let digits = name.strip_suffix(suffix).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}

/// Reads all segments, oldest first, hands what is not done to `each`, and removes what is of no use any more. Also
/// returns the next numbers of a segment and of an entry.
pub(crate) fn recover(
    disk: &dyn Disk,
    mut each: impl FnMut(EntryId, &[u8]),
) -> Result<(Recovery, Vec<Found>, u32, u64), OpenError> {
    let names = disk.names()?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_in(name, ".seg")).collect();
    numbers.sort_unstable();
    // Refused before anything is changed.
    for &number in &numbers {
        let mut head = [0; SEGMENT_HEADER_BYTES];
        let file = disk.open(&segment_name(number))?;
        let read = read_full(&*file, &mut head, 0)?;
        if let Header::Newer { version } = read_segment_header(&head[..read]) {
            return Err(OpenError::NewerFormat { segment: segment_name(number), version });
        }
    }
    let mut recovery = Recovery::default();
    let mut kept = Vec::new();
    let mut next_sequence = 1;
    for &number in &numbers {
        let found = read_segment(disk, number, &mut recovery, &mut next_sequence, &mut each)?;
        if let Some(found) = found.filter(|found| found.live > 0) {
            kept.push(found);
        } else {
            disk.remove(&segment_name(number))?;
        }
    }
    for name in &names {
        if let Some(number) = number_in(name, ".done")
            && !kept.iter().any(|found| found.number == number)
        {
            disk.remove(name)?;
        }
    }
    let next_number = numbers.last().map_or(1, |last| last.saturating_add(1));
    Ok((recovery, kept, next_number, next_sequence))
}

/// Reads one segment; `None` when there is nothing in it.
fn read_segment(
    disk: &dyn Disk,
    number: u32,
    recovery: &mut Recovery,
    next_sequence: &mut u64,
    each: &mut impl FnMut(EntryId, &[u8]),
) -> Result<Option<Found>, OpenError> {
    let file = disk.open(&segment_name(number))?;
    let length = usize::try_from(file.length()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; length];
    let read = read_full(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    let Header::Known { salt, first_sequence } = read_segment_header(&bytes) else {
        // Frames are written after the header was synced, so this is a file that was just made, unless it is longer.
        if bytes.len() > SEGMENT_HEADER_BYTES {
            recovery.damaged.push(*next_sequence..=*next_sequence);
        }
        recovery.torn_bytes += bytes.len() as u64;
        return Ok(None);
    };
    let (done, cursor) = read_cursor(disk, number, salt)?;
    let mut live = 0;
    let mut at = SEGMENT_HEADER_BYTES;
    let mut expected = first_sequence;
    while at < bytes.len() {
        let Some(header) = read_frame_header(salt, &bytes[at..]) else {
            let Some(skipped) = find_frame(salt, &bytes[at..]) else {
                recovery.torn_bytes += (bytes.len() - at) as u64;
                break;
            };
            at += skipped;
            continue;
        };
        if expected < header.sequence {
            recovery.damaged.push(expected..=header.sequence - 1);
        }
        let start = at + FRAME_HEADER_BYTES;
        let Some(payload) = bytes.get(start..start + header.length as usize) else {
            // The end of the file is inside of it: torn.
            recovery.torn_bytes += (bytes.len() - at) as u64;
            break;
        };
        if header.fits(salt, payload) {
            let id = EntryId { segment: number, offset: at as u32, length: header.length };
            if !done.contains(&id.offset) {
                live += 1;
                recovery.entries += 1;
                recovery.bytes += u64::from(header.length);
                each(id, payload);
            }
        } else {
            recovery.damaged.push(header.sequence..=header.sequence);
        }
        expected = header.sequence + 1;
        *next_sequence = (*next_sequence).max(header.sequence + 1);
        at = start + header.length as usize;
    }
    if at < bytes.len() {
        file.truncate(at as u64)?;
    }
    Ok(Some(Found { number, salt, file, live, bytes: at as u64, cursor }))
}

/// What a segment's cursor file says is done, and the file with its length.
type Cursor = (HashSet<u32>, Option<(Arc<dyn DiskFile>, u64)>);

fn read_cursor(disk: &dyn Disk, number: u32, salt: u64) -> io::Result<Cursor> {
    let file = match disk.open(&cursor_name(number)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((HashSet::new(), None)),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(0)];
    let read = read_full(&*file, &mut bytes, 0)?;
    // A torn mark is one that is missing: its entry is replayed again.
    let done = bytes[..read].chunks(MARK_BYTES).filter_map(|bytes| read_mark(salt, bytes)).collect();
    let length = (read - read % MARK_BYTES) as u64;
    Ok((done, Some((file, length))))
}
