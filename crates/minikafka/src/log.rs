//! The log of one partition: its segments, its producers, and how old data leaves it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::error::Error;
use crate::producers::{Producers, Verdict};
use crate::record_batch::{BatchHeader, for_each_record, placed};
use crate::segment::{OpenError, Segment, Tail};
use crate::{ErrorCode, segment};

/// What is read at once while a log is searched by time.
const SEARCH_BYTES: usize = 256 * 1024;

/// The limits of a log, and the count of bytes that it shares with all others.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) segment_bytes: u64,
    /// Bytes that a partition keeps; the oldest segment goes when there are more.
    pub(crate) retention_bytes: u64,
    pub(crate) total: Arc<AtomicU64>,
}

/// Where a batch came to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// The offset behind its last record.
    pub(crate) end: i64,
}

/// The batches of one partition, in order.
#[derive(Debug)]
pub(crate) struct PartitionLog {
    dir: Option<PathBuf>,
    limits: Limits,
    segments: VecDeque<Segment>,
    pub(crate) producers: Producers,
    /// Set when the disk has failed: nothing is appended any more until the next start has looked at the files.
    failed: bool,
}

impl PartitionLog {
    /// Opens the log in `dir`, which exists, or a new one in memory.
    pub(crate) fn open(dir: Option<PathBuf>, limits: Limits) -> Result<Self, Error> {
        let mut log =
            Self { dir, limits, segments: VecDeque::new(), producers: Producers::default(), failed: false };
        if let Some(dir) = log.dir.clone() {
            log.recover(&dir)?;
        }
        if log.segments.is_empty() {
            let segment = log.new_segment(0).map_err(|source| log.storage_error(source))?;
            log.segments.push_back(segment);
        }
        let bytes = log.segments.iter().map(Segment::len).sum();
        log.limits.total.fetch_add(bytes, Ordering::Relaxed);
        Ok(log)
    }

    fn recover(&mut self, dir: &Path) -> Result<(), Error> {
        let storage = |source| Error::Storage { path: dir.to_owned(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(storage)? {
            let path = entry.map_err(storage)?.path();
            let base =
                path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<i64>().ok());
            if let Some(base) = base.filter(|&base| path.ends_with(segment::file_name(base))) {
                found.push((base, path));
            }
        }
        found.sort();
        let newest = found.len().saturating_sub(1);
        for (n, (base_offset, path)) in found.into_iter().enumerate() {
            let tail = if n == newest { Tail::MayBeTorn } else { Tail::Closed };
            let producers = &mut self.producers;
            let opened = Segment::open(&path, base_offset, tail, |batch| producers.appended(batch));
            let segment = opened.map_err(|failed| match failed {
                OpenError::Io(source) => Error::Storage { path: path.clone(), source },
                OpenError::Corrupt { position } => Error::Corrupt { path: path.clone(), position },
            })?;
            self.segments.push_back(segment);
        }
        Ok(())
    }

    fn storage_error(&self, source: io::Error) -> Error {
        Error::Storage { path: self.dir.clone().unwrap_or_default(), source }
    }

    fn new_segment(&self, base_offset: i64) -> io::Result<Segment> {
        match &self.dir {
            Some(dir) => Segment::create(dir, base_offset),
            None => Ok(Segment::in_memory(base_offset)),
        }
    }

    pub(crate) fn start_offset(&self) -> i64 {
        self.segments.front().map_or(0, |segment| segment.base_offset)
    }

    pub(crate) fn next_offset(&self) -> i64 {
        self.segments.back().map_or(0, |segment| segment.next_offset)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(Segment::len).sum()
    }

    /// Appends a checked batch, or tells where its twin lies already.
    pub(crate) fn append(
        &mut self,
        header: &BatchHeader,
        batch: &Bytes,
        leader_epoch: i32,
    ) -> Result<Appended, ErrorCode> {
        if self.failed {
            return Err(ErrorCode::KAFKA_STORAGE_ERROR);
        }
        if let Verdict::Duplicate { base_offset, last_offset } = self.producers.check(header)? {
            return Ok(Appended { base_offset, end: last_offset + 1 });
        }
        let header = BatchHeader { base_offset: self.next_offset(), ..*header };
        let placed = placed(batch, header.base_offset, leader_epoch);
        if let Err(error) = self.write(&header, &placed) {
            tracing::error!(%error, dir = ?self.dir, "can't append to the log");
            return Err(ErrorCode::KAFKA_STORAGE_ERROR);
        }
        self.producers.appended(&header);
        self.limits.total.fetch_add(header.size as u64, Ordering::Relaxed);
        while self.segments.len() > 1 && self.bytes() > self.limits.retention_bytes {
            self.drop_oldest();
        }
        Ok(Appended { base_offset: header.base_offset, end: header.last_offset() + 1 })
    }

    fn write(&mut self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|active| {
            active.len() > 0 && active.len() + header.size as u64 > self.limits.segment_bytes
        });
        if full {
            self.roll()?;
        }
        match self.segments.back_mut() {
            Some(active) => active.append(header, batch),
            None => Err(io::Error::other("the log has no segment")),
        }
    }

    /// Closes the active segment, synced, and begins the next.
    fn roll(&mut self) -> io::Result<()> {
        if let Some(active) = self.segments.back()
            && let Err(failed) = active.sync()
        {
            self.failed = true;
            return Err(failed);
        }
        let next = self.new_segment(self.next_offset())?;
        self.segments.push_back(next);
        Ok(())
    }

    /// Gives up the oldest segment, even if it is the only one.
    pub(crate) fn drop_oldest(&mut self) {
        if self.segments.len() == 1
            && let Err(error) = self.roll()
        {
            tracing::error!(%error, dir = ?self.dir, "can't begin a new segment");
            return;
        }
        let Some(oldest) = self.segments.pop_front() else { return };
        self.limits.total.fetch_sub(oldest.len(), Ordering::Relaxed);
        tracing::info!(dir = ?self.dir, first_offset = oldest.base_offset, bytes = oldest.len(),
            "retention: the oldest segment is deleted");
        if let Err(error) = oldest.remove() {
            tracing::error!(%error, dir = ?self.dir, "can't delete the oldest segment");
        }
    }

    /// Whole batches from `offset` on that end below `end`: up to `max_bytes`, at least one if `at_least_one`.
    pub(crate) fn read(
        &self,
        offset: i64,
        end: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Bytes, ErrorCode> {
        let segment = self.segments.iter().find(|segment| offset < segment.next_offset);
        let Some(segment) = segment.filter(|_| offset < end) else { return Ok(Bytes::new()) };
        segment.read(offset, end, max_bytes, at_least_one).map_err(|error| {
            tracing::error!(%error, dir = ?self.dir, offset, "can't read the log");
            ErrorCode::KAFKA_STORAGE_ERROR
        })
    }

    /// Calls `each` with every batch from `offset` on, until it returns true or the log ends.
    pub(crate) fn scan(
        &self,
        mut offset: i64,
        mut each: impl FnMut(&BatchHeader, &Bytes) -> bool,
    ) -> Result<(), ErrorCode> {
        loop {
            let mut chunk = self.read(offset, self.next_offset(), SEARCH_BYTES, true)?;
            if chunk.is_empty() {
                return Ok(());
            }
            while let Some(header) = BatchHeader::parse(&chunk) {
                if each(&header, &chunk.split_to(header.size.min(chunk.len()))) {
                    return Ok(());
                }
                offset = header.last_offset() + 1;
            }
        }
    }

    /// Offset and time of the first record that is not older than `timestamp`, in milliseconds. In a compressed batch
    /// it is the batch's first record, as we don't look inside.
    pub(crate) fn offset_for(&self, timestamp: i64) -> Result<Option<(i64, i64)>, ErrorCode> {
        let Some(segment) = self.segments.iter().find(|segment| segment.max_timestamp >= timestamp) else {
            return Ok(None);
        };
        let mut found = None;
        self.scan(segment.base_offset, |header, batch| {
            if header.max_timestamp < timestamp {
                return false;
            }
            found = Some((header.base_offset, header.base_timestamp));
            if !header.is_compressed() {
                let mut exact = None;
                let walked = for_each_record(header, batch, |record| {
                    if exact.is_none() && record.timestamp >= timestamp {
                        exact = Some((header.base_offset + i64::from(record.offset_delta), record.timestamp));
                    }
                    Ok(())
                });
                if walked.is_ok() && exact.is_some() {
                    found = exact;
                }
            }
            true
        })?;
        Ok(found)
    }

    /// Last offset and largest timestamp of the batch that holds the largest timestamp.
    pub(crate) fn newest(&self) -> Result<Option<(i64, i64)>, ErrorCode> {
        let largest = self.segments.iter().map(|segment| segment.max_timestamp).max();
        let Some(largest) = largest.filter(|&largest| largest > i64::MIN) else { return Ok(None) };
        let mut found = None;
        self.scan(self.start_offset(), |header, _| {
            let hit = header.max_timestamp == largest;
            if hit {
                found = Some((header.last_offset(), largest));
            }
            hit
        })?;
        Ok(found)
    }

    /// What has to be synced so that everything below `next_offset` is safe; older segments are synced already.
    pub(crate) fn active_file(&self) -> Option<Arc<std::fs::File>> {
        self.segments.back().and_then(Segment::file)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// A sync has failed: what the page cache holds can no longer be trusted to reach the disk.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// Takes the log's bytes out of the shared count: its topic is gone.
    pub(crate) fn forget(&mut self) {
        self.limits.total.fetch_sub(self.bytes(), Ordering::Relaxed);
        self.segments.clear();
        self.failed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_batch::tests::batch;
    use crate::record_batch::validate;

    fn limits(segment_bytes: u64, retention_bytes: u64) -> Limits {
        Limits { segment_bytes, retention_bytes, total: Arc::default() }
    }

    fn append(log: &mut PartitionLog, value: &str, producer: (i64, i16, i32)) -> Appended {
        let batch = batch(&[value], producer);
        log.append(&validate(&batch).unwrap(), &batch, 3).unwrap()
    }

    fn values(log: &PartitionLog) -> Vec<(i64, String)> {
        let mut out = Vec::new();
        log.scan(log.start_offset(), |header, batch| {
            for_each_record(header, batch, |record| {
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                out.push((header.base_offset + i64::from(record.offset_delta), value));
                Ok(())
            })
            .unwrap();
            false
        })
        .unwrap();
        out
    }

    struct TempDir(PathBuf);

    impl TempDir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("minikafka-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_reopened_log_has_its_records_and_knows_its_producers() {
        let dir = TempDir::new("reopen");
        let open = || PartitionLog::open(Some(dir.0.clone()), limits(200, 1 << 20)).unwrap();
        let mut log = open();
        for n in 0..10 {
            append(&mut log, &format!("v{n}"), (4, 0, n));
        }
        assert!(log.segments.len() > 3);
        let before = values(&log);
        drop(log);
        let mut log = open();
        assert_eq!(values(&log), before);
        assert_eq!(append(&mut log, "v9", (4, 0, 9)).base_offset, 9, "a repeated batch after the restart");
        assert_eq!(append(&mut log, "new", (4, 0, 10)).base_offset, 10);
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_the_write_stopped() {
        let dir = TempDir::new("torn");
        let open = || PartitionLog::open(Some(dir.0.clone()), limits(1 << 20, 1 << 20)).unwrap();
        let mut log = open();
        append(&mut log, "first", (-1, -1, -1));
        let keep = log.bytes();
        append(&mut log, "second", (-1, -1, -1));
        drop(log);
        let path = dir.0.join(segment::file_name(0));
        let whole = std::fs::read(&path).unwrap();
        for cut in keep as usize..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = open();
            assert_eq!(values(&log), [(0, "first".to_owned())], "cut at {cut}");
            assert_eq!(append(&mut log, "again", (-1, -1, -1)).base_offset, 1);
        }
        // Space that the file system gave to the file, but no data.
        let mut zeroes = whole[..keep as usize].to_vec();
        zeroes.resize(whole.len() + 4096, 0);
        std::fs::write(&path, zeroes).unwrap();
        assert_eq!(values(&open()), [(0, "first".to_owned())]);
    }

    #[test]
    fn damage_in_a_closed_segment_is_reported_and_nothing_is_cut() {
        let dir = TempDir::new("damage");
        let open = || PartitionLog::open(Some(dir.0.clone()), limits(100, 1 << 20));
        let mut log = open().unwrap();
        append(&mut log, "first", (-1, -1, -1));
        append(&mut log, "second", (-1, -1, -1));
        drop(log);
        let path = dir.0.join(segment::file_name(0));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(open(), Err(Error::Corrupt { position: 0, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn retention_gives_up_the_oldest_records_and_keeps_the_offsets() {
        let limits = limits(200, 500);
        let mut log = PartitionLog::open(None, limits.clone()).unwrap();
        for n in 0..50 {
            append(&mut log, &format!("v{n}"), (-1, -1, -1));
        }
        assert!(log.bytes() <= 500);
        assert_eq!(limits.total.load(Ordering::Relaxed), log.bytes());
        assert!(log.start_offset() > 30);
        assert_eq!(values(&log).last().unwrap(), &(49, "v49".to_owned()));
        while log.bytes() > 0 {
            log.drop_oldest();
        }
        assert_eq!((log.start_offset(), log.next_offset()), (50, 50));
    }

    #[test]
    fn a_read_begins_with_the_batch_that_holds_the_offset_and_ends_below_the_limit() {
        let mut log = PartitionLog::open(None, limits(1 << 20, 1 << 20)).unwrap();
        for n in 0..200 {
            append(&mut log, &format!("v{n}"), (-1, -1, -1));
        }
        for offset in [0, 1, 77, 199] {
            let chunk = log.read(offset, 200, 1 << 20, true).unwrap();
            assert_eq!(BatchHeader::parse(&chunk).unwrap().base_offset, offset);
        }
        assert!(log.read(150, 150, 1 << 20, true).unwrap().is_empty());
        assert!(log.read(0, 200, 10, false).unwrap().is_empty());
        let one = log.read(0, 200, 10, true).unwrap();
        assert_eq!(BatchHeader::parse(&one).unwrap().size, one.len());
        assert_eq!(log.offset_for(1_000).unwrap(), Some((0, 1_000)));
        assert_eq!(log.offset_for(1_001).unwrap(), None);
    }
}
