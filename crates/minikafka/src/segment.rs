//! One stretch of a partition's log: whole batches one behind the other, in a file or in memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::record_batch::{BatchHeader, HEADER_BYTES, crc_matches};

/// Bytes of log between two entries of a segment's index: a reader scans at most this much in vain.
const INDEX_INTERVAL_BYTES: u64 = 4096;
/// Bytes read at once while a segment is scanned at start, unless one batch is larger.
const SCAN_BYTES: usize = 1 << 20;

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    File { file: Arc<File>, path: PathBuf },
}

#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    base_offset: i64,
    position: u64,
}

/// A segment of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    pub(crate) next_offset: i64,
    pub(crate) max_timestamp: i64,
    bytes: u64,
    store: Store,
    index: Vec<IndexEntry>,
}

/// Why a segment can't be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    Io(io::Error),
    /// A batch that isn't one, before the place where an interrupted write could have left it.
    Corrupt {
        position: u64,
    },
}

impl From<io::Error> for OpenError {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

/// What may stand at the end of a segment that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// It was synced before a newer one was begun: every byte must be a batch.
    Closed,
    /// A write may have been interrupted: what follows the last whole batch is cut off.
    MayBeTorn,
}

impl Segment {
    pub(crate) fn in_memory(base_offset: i64) -> Self {
        Self::with_store(base_offset, Store::Memory(Vec::new()))
    }

    pub(crate) fn create(dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = dir.join(file_name(base_offset));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        // The name must survive a power loss as the bytes do.
        File::open(dir)?.sync_all()?;
        Ok(Self::with_store(base_offset, Store::File { file: Arc::new(file), path }))
    }

    fn with_store(base_offset: i64, store: Store) -> Self {
        let (next_offset, max_timestamp) = (base_offset, i64::MIN);
        Self { base_offset, next_offset, max_timestamp, bytes: 0, store, index: Vec::new() }
    }

    /// Opens a segment file, checks its batches and calls `each` for them in order.
    pub(crate) fn open(
        path: &Path,
        base_offset: i64,
        tail: Tail,
        mut each: impl FnMut(&BatchHeader),
    ) -> Result<Self, OpenError> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        let store = Store::File { file: Arc::new(file), path: path.to_owned() };
        let mut segment = Self::with_store(base_offset, store);
        let mut chunk = Bytes::new();
        while segment.bytes < len {
            let rest = len - segment.bytes;
            let wanted = match BatchHeader::parse(&chunk) {
                Some(header) => header.size,
                None => HEADER_BYTES,
            };
            if chunk.len() < wanted && (chunk.len() as u64) < rest && wanted as u64 <= rest {
                chunk = segment.read_at(segment.bytes, (wanted.max(SCAN_BYTES) as u64).min(rest) as usize)?;
                continue;
            }
            let whole = BatchHeader::parse(&chunk).filter(|header| {
                header.base_offset >= segment.next_offset
                    && header.last_offset_delta >= 0
                    && chunk.get(..header.size).is_some_and(|batch| crc_matches(header, batch))
            });
            let Some(header) = whole else {
                if tail == Tail::Closed {
                    return Err(OpenError::Corrupt { position: segment.bytes });
                }
                tracing::warn!(path = %path.display(), position = segment.bytes, cut_bytes = rest,
                    "the log ends in an interrupted write: cut off");
                segment.truncate(segment.bytes)?;
                segment.sync()?;
                break;
            };
            each(&header);
            segment.note(&header);
            chunk = chunk.slice(header.size..);
        }
        Ok(segment)
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes
    }

    /// Appends one batch whose header, with its offset, is `header`.
    pub(crate) fn append(&mut self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
        let position = self.bytes;
        match &mut self.store {
            Store::Memory(bytes) => bytes.extend_from_slice(batch),
            Store::File { file, .. } => {
                if let Err(failed) = file.write_all_at(batch, position) {
                    // Half a batch must not stay in front of the next one.
                    file.set_len(position)?;
                    return Err(failed);
                }
            }
        }
        self.note(header);
        Ok(())
    }

    fn note(&mut self, header: &BatchHeader) {
        let position = self.bytes;
        let due = self.index.last().is_none_or(|last| position - last.position >= INDEX_INTERVAL_BYTES);
        if due {
            self.index.push(IndexEntry { base_offset: header.base_offset, position });
        }
        self.bytes += header.size as u64;
        self.next_offset = header.last_offset() + 1;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        match &mut self.store {
            Store::Memory(bytes) => bytes.truncate(len as usize),
            Store::File { file, .. } => file.set_len(len)?,
        }
        Ok(())
    }

    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        match &self.store {
            Store::Memory(bytes) => {
                let from = (position as usize).min(bytes.len());
                let to = from.saturating_add(len).min(bytes.len());
                Ok(Bytes::copy_from_slice(&bytes[from..to]))
            }
            Store::File { file, .. } => {
                let mut buffer = vec![0; len];
                file.read_exact_at(&mut buffer, position)?;
                Ok(buffer.into())
            }
        }
    }

    /// Whole batches from the one that holds `offset` on: those that end below `end`, as many as fit `max_bytes`, and
    /// at least one when `at_least_one`.
    pub(crate) fn read(
        &self,
        offset: i64,
        end: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> io::Result<Bytes> {
        let entry = self.index.partition_point(|entry| entry.base_offset <= offset);
        let mut position = entry.checked_sub(1).map_or(0, |before| self.index[before].position);
        // From here to the batch that holds the offset; a header at a time, at most INDEX_INTERVAL_BYTES of them.
        let first = loop {
            let Some(header) = self.header_at(position)? else { return Ok(Bytes::new()) };
            if header.last_offset() >= offset {
                break header;
            }
            position += header.size as u64;
        };
        let least = if at_least_one { first.size } else { 0 };
        let wanted = (max_bytes.max(least) as u64).min(self.bytes - position) as usize;
        let mut chunk = self.read_at(position, wanted)?;
        let mut whole = 0;
        while let Some(header) = chunk.get(whole..).and_then(BatchHeader::parse) {
            if header.last_offset() >= end || whole + header.size > chunk.len() {
                break;
            }
            whole += header.size;
        }
        chunk.truncate(whole);
        Ok(chunk)
    }

    fn header_at(&self, position: u64) -> io::Result<Option<BatchHeader>> {
        if position >= self.bytes {
            return Ok(None);
        }
        Ok(BatchHeader::parse(&self.read_at(position, HEADER_BYTES)?))
    }

    /// The file to be synced by another thread while this one goes on, `None` in memory.
    pub(crate) fn file(&self) -> Option<Arc<File>> {
        match &self.store {
            Store::Memory(_) => None,
            Store::File { file, .. } => Some(Arc::clone(file)),
        }
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file().map_or(Ok(()), |file| file.sync_data())
    }

    /// Removes the segment and its file.
    pub(crate) fn remove(self) -> io::Result<()> {
        match self.store {
            Store::Memory(_) => Ok(()),
            Store::File { path, .. } => std::fs::remove_file(path),
        }
    }
}

pub(crate) fn file_name(base_offset: i64) -> String {
    format!("{base_offset:020}.log")
}
