//! The log: a queue of appends, the thread that writes and syncs them in groups, and the segments that hold them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tracing::warn;

use crate::disk::{Disk, DiskFile, read_full, write_all};
use crate::frame::{
    FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, mark, put_frame, read_frame_header, segment_header,
};
use crate::recovery::{Found, Recovery, cursor_name, recover, segment_name};
use crate::{AppendError, OpenError, ReadError};

/// What one group may write before it is synced, beside the entry that exceeds it.
const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Offsets have 32 bits.
const MAX_SEGMENT_BYTES: u64 = 1 << 31;

/// What a log may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes that all segments may have together. 10 GiB unless told.
    pub quota_bytes: u64,
    /// A segment takes no more entries from here on, in bytes. 64 MiB unless told; at most 2 GiB.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { quota_bytes: 10 << 30, segment_bytes: 64 << 20 }
    }
}

/// Where an entry lies. 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl EntryId {
    /// Bytes of the entry.
    pub fn bytes(self) -> usize {
        self.length as usize
    }

    /// Its segment, offset and length, for whoever keeps many of them in little memory.
    pub fn parts(self) -> [u32; 3] {
        [self.segment, self.offset, self.length]
    }

    /// What had these [`parts`](Self::parts).
    pub fn from_parts([segment, offset, length]: [u32; 3]) -> Self {
        Self { segment, offset, length }
    }
}

/// A log at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Entries that are safe and not done.
    pub entries: u64,
    /// Bytes of all segments.
    pub disk_bytes: u64,
    /// Entries appended since the log was opened.
    pub appended: u64,
    /// Bytes of these.
    pub appended_bytes: u64,
    /// Entries done since the log was opened.
    pub done: u64,
    /// Syncs of data: one for each group.
    pub syncs: u64,
    /// Groups that the disk did not take.
    pub failures: u64,
    /// Why the last append failed, until one succeeds.
    pub problem: Option<String>,
}

type Done = Box<dyn FnOnce(Result<EntryId, AppendError>) + Send>;

/// A log in a directory. Dropping it waits for what was appended, and for nothing else.
pub struct Log {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    options: Options,
    commands: Mutex<Commands>,
    wake: Condvar,
    segments: Mutex<Segments>,
    counters: Counters,
    problem: Mutex<Option<String>>,
}

#[derive(Default)]
struct Commands {
    appends: Vec<(Vec<u8>, Done)>,
    done: Vec<EntryId>,
    closed: bool,
}

#[derive(Default)]
struct Counters {
    appended: AtomicU64,
    appended_bytes: AtomicU64,
    done: AtomicU64,
    syncs: AtomicU64,
    failures: AtomicU64,
}

#[derive(Default)]
struct Segments {
    by_number: BTreeMap<u32, Segment>,
    disk_bytes: u64,
    entries: u64,
}

struct Segment {
    salt: u64,
    file: Arc<dyn DiskFile>,
    live: u32,
    bytes: u64,
    /// Which entries are done: a file of its own, so that a segment is only ever appended to.
    cursor: Option<(Arc<dyn DiskFile>, u64)>,
}

impl Log {
    /// Opens the log on `disk`, handing every entry that is not done to `each`, in the order of their appends.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is changed where the format is newer.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        each: impl FnMut(EntryId, &[u8]),
    ) -> Result<(Self, Recovery), OpenError> {
        let options = Options {
            segment_bytes: options.segment_bytes.clamp(SEGMENT_HEADER_BYTES as u64 + 1, MAX_SEGMENT_BYTES),
            ..options
        };
        let (recovery, found, next_number, next_sequence) = recover(&*disk, each)?;
        let mut segments = Segments { entries: recovery.entries, ..Segments::default() };
        for Found { number, salt, file, live, bytes, cursor } in found {
            segments.disk_bytes += bytes;
            segments.by_number.insert(number, Segment { salt, file, live, bytes, cursor });
        }
        let shared = Arc::new(Shared {
            disk,
            options,
            commands: Mutex::default(),
            wake: Condvar::new(),
            segments: Mutex::new(segments),
            counters: Counters::default(),
            problem: Mutex::default(),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            active: None,
            next_number,
            next_sequence,
            salts: RandomState::new(),
            buffer: Vec::new(),
        };
        let thread =
            std::thread::Builder::new().name("tidegate-spill".to_owned()).spawn(move || writer.run())?;
        Ok((Self { shared, thread: Some(thread) }, recovery))
    }

    /// Appends an entry. `done` is called from the log's own thread when it is safe, or is not: it must be short.
    /// Entries are appended in the order of the calls, and are told so in that order.
    pub fn append(&self, bytes: Vec<u8>, done: impl FnOnce(Result<EntryId, AppendError>) + Send + 'static) {
        let mut commands = self.shared.commands.lock();
        if commands.closed {
            drop(commands);
            return done(Err(AppendError::Closed));
        }
        commands.appends.push((bytes, Box::new(done)));
        drop(commands);
        self.shared.wake.notify_one();
    }

    /// Reads an entry. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] when the bytes are not those that were appended.
    pub fn read(&self, id: EntryId) -> Result<Vec<u8>, ReadError> {
        let (file, salt) = {
            let segments = self.shared.segments.lock();
            let segment = segments.by_number.get(&id.segment).ok_or(ReadError::Gone)?;
            (Arc::clone(&segment.file), segment.salt)
        };
        let mut bytes = vec![0; FRAME_HEADER_BYTES + id.bytes()];
        let read = read_full(&*file, &mut bytes, id.offset.into())?;
        let header = read_frame_header(salt, &bytes[..read]).ok_or(ReadError::Damaged)?;
        bytes.drain(..FRAME_HEADER_BYTES);
        if read < FRAME_HEADER_BYTES + id.bytes() || !header.fits(salt, &bytes) {
            return Err(ReadError::Damaged);
        }
        Ok(bytes)
    }

    /// Says that an entry is needed no more. Call it once for an entry.
    pub fn done(&self, id: EntryId) {
        self.shared.commands.lock().done.push(id);
        self.shared.wake.notify_one();
    }

    /// What an operator may know.
    pub fn status(&self) -> Status {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        let (entries, disk_bytes) = {
            let segments = self.shared.segments.lock();
            (segments.entries, segments.disk_bytes)
        };
        Status {
            entries,
            disk_bytes,
            appended: read(&counters.appended),
            appended_bytes: read(&counters.appended_bytes),
            done: read(&counters.done),
            syncs: read(&counters.syncs),
            failures: read(&counters.failures),
            problem: self.shared.problem.lock().clone(),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.commands.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != std::thread::current().id()) {
            // A writer that panicked has nothing more to tell.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("disk", &self.shared.disk).finish_non_exhaustive()
    }
}

/// The segment that is written to.
struct Active {
    number: u32,
    salt: u64,
    file: Arc<dyn DiskFile>,
    bytes: u64,
}

/// The log's own thread.
struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    next_number: u32,
    next_sequence: u64,
    salts: RandomState,
    buffer: Vec<u8>,
}

impl Writer {
    fn run(mut self) {
        loop {
            let (appends, done, closed) = {
                let mut commands = self.shared.commands.lock();
                while commands.appends.is_empty() && commands.done.is_empty() && !commands.closed {
                    self.shared.wake.wait(&mut commands);
                }
                let taken = std::mem::take(&mut commands.appends);
                (taken, std::mem::take(&mut commands.done), commands.closed)
            };
            let idle = appends.is_empty();
            let mut rest = appends.into_iter().peekable();
            while rest.peek().is_some() {
                let mut group = Vec::new();
                let mut bytes = 0;
                while let Some(append) = rest.next_if(|_| bytes < GROUP_BYTES) {
                    bytes += append.0.len();
                    group.push(append);
                }
                self.write_group(group);
            }
            self.finish(&done);
            if idle && closed {
                return;
            }
        }
    }

    /// Makes a group safe and tells everybody.
    fn write_group(&mut self, group: Vec<(Vec<u8>, Done)>) {
        let quota = self.shared.options.quota_bytes;
        let max_bytes = usize::try_from(self.shared.options.segment_bytes).unwrap_or(usize::MAX);
        let used = self.shared.segments.lock().disk_bytes;
        let mut verdicts = Vec::with_capacity(group.len());
        let mut asked = used;
        let (mut taken, mut tell) = (Vec::new(), Vec::new());
        for (bytes, done) in group {
            let size = (bytes.len() + FRAME_HEADER_BYTES) as u64;
            let verdict = if bytes.len() > max_bytes {
                Some(AppendError::TooLarge { max_bytes })
            } else if asked + size > quota {
                // What comes behind it in order must not overtake it.
                asked = quota;
                Some(AppendError::Full { quota_bytes: quota })
            } else {
                asked += size;
                taken.push(bytes);
                None
            };
            verdicts.push(verdict);
            tell.push(done);
        }
        let written = if taken.is_empty() { Ok(Vec::new()) } else { self.write(&taken) };
        let failed = match &written {
            Ok(_) => None,
            Err(error) => Some(AppendError::Disk(error.to_string())),
        };
        self.note(failed.as_ref().or_else(|| verdicts.iter().flatten().last()));
        let mut ids = written.unwrap_or_default().into_iter();
        for (verdict, done) in verdicts.into_iter().zip(tell) {
            done(match verdict.or_else(|| failed.clone()) {
                Some(error) => Err(error),
                None => ids.next().ok_or(AppendError::Closed),
            });
        }
    }

    fn note(&self, error: Option<&AppendError>) {
        let mut problem = self.shared.problem.lock();
        let text = error.map(ToString::to_string);
        if error.is_some() {
            self.shared.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(text) = text.as_ref().filter(|text| problem.as_ref() != Some(*text)) {
            warn!(reason = text, "the spill log does not take entries");
        }
        *problem = text;
    }

    /// Writes and syncs `entries`, all of them in one segment. After an error that segment is left alone for ever.
    fn write(&mut self, entries: &[Vec<u8>]) -> io::Result<Vec<EntryId>> {
        let full = self.shared.options.segment_bytes;
        if self.active.as_ref().is_some_and(|active| active.bytes >= full) {
            self.retire();
        }
        let result = self.write_to_active(entries);
        if result.is_err() {
            self.abandon();
        }
        result
    }

    fn write_to_active(&mut self, entries: &[Vec<u8>]) -> io::Result<Vec<EntryId>> {
        if self.active.is_none() {
            self.begin()?;
        }
        let Some(active) = &mut self.active else { return Err(io::ErrorKind::NotFound.into()) };
        self.buffer.clear();
        let mut ids = Vec::with_capacity(entries.len());
        for entry in entries {
            let offset = u32::try_from(active.bytes + self.buffer.len() as u64);
            let offset = offset.map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            ids.push(EntryId { segment: active.number, offset, length: entry.len() as u32 });
            put_frame(active.salt, self.next_sequence, entry, &mut self.buffer);
            self.next_sequence += 1;
        }
        let before = active.bytes;
        // Counted first: whatever stands there after an error is used up.
        active.bytes += self.buffer.len() as u64;
        write_all(&*active.file, &self.buffer, before)?;
        self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
        active.file.sync()?;
        let (number, bytes) = (active.number, active.bytes);
        if self.buffer.capacity() > 2 * GROUP_BYTES {
            self.buffer = Vec::new();
        }
        let mut segments = self.shared.segments.lock();
        segments.entries += ids.len() as u64;
        segments.disk_bytes += bytes - before;
        if let Some(segment) = segments.by_number.get_mut(&number) {
            segment.bytes = bytes;
            segment.live += ids.len() as u32;
        }
        drop(segments);
        self.shared.counters.appended.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let payload: usize = entries.iter().map(Vec::len).sum();
        self.shared.counters.appended_bytes.fetch_add(payload as u64, Ordering::Relaxed);
        Ok(ids)
    }

    /// Begins a segment whose name and header are safe.
    fn begin(&mut self) -> io::Result<()> {
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        let salt = self.salts.hash_one(number);
        let file = self.shared.disk.create(&segment_name(number))?;
        let header = segment_header(salt, self.next_sequence);
        let prepared = write_all(&*file, &header, 0)
            .and_then(|()| file.sync())
            .and_then(|()| self.shared.disk.sync_names());
        if let Err(error) = prepared {
            let _ = self.shared.disk.remove(&segment_name(number));
            return Err(error);
        }
        let bytes = header.len() as u64;
        let segment = Segment { salt, file: Arc::clone(&file), live: 0, bytes, cursor: None };
        let mut segments = self.shared.segments.lock();
        segments.by_number.insert(number, segment);
        segments.disk_bytes += bytes;
        drop(segments);
        self.active = Some(Active { number, salt, file, bytes });
        Ok(())
    }

    /// Stops writing to a segment that the disk failed on. What it holds safely stays until it is done.
    fn abandon(&mut self) {
        let Some(active) = self.active.take() else { return };
        let mut segments = self.shared.segments.lock();
        let safe = segments.by_number.get(&active.number).map_or(0, |segment| segment.bytes);
        // The disk holds these bytes too, as far as anyone knows.
        segments.disk_bytes += active.bytes.saturating_sub(safe);
        if let Some(segment) = segments.by_number.get_mut(&active.number) {
            segment.bytes = active.bytes;
            // What may stand there although nobody was told that it is safe need not come back after a restart.
            let mut at = safe;
            let mut offsets = Vec::new();
            while let Some(header) = self
                .buffer
                .get((at - safe) as usize..)
                .and_then(|bytes| read_frame_header(active.salt, bytes))
            {
                offsets.push(at as u32);
                at += FRAME_HEADER_BYTES as u64 + u64::from(header.length);
            }
            // A disk that fails may not take this either: then they come back, as a repetition that nobody lost.
            let _ = write_marks(&*self.shared.disk, active.number, segment, &offsets);
        }
        drop(segments);
        self.remove_if_done(active.number);
    }

    /// Stops writing to a segment that is full.
    fn retire(&mut self) {
        if let Some(active) = self.active.take() {
            self.remove_if_done(active.number);
        }
    }

    /// Writes down what is done, and removes segments that nobody needs any more.
    fn finish(&mut self, done: &[EntryId]) {
        let mut by_segment: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for id in done {
            by_segment.entry(id.segment).or_default().push(id.offset);
        }
        for (number, offsets) in by_segment {
            let mut segments = self.shared.segments.lock();
            let Some(segment) = segments.by_number.get_mut(&number) else { continue };
            let count = (offsets.len() as u32).min(segment.live);
            segment.live -= count;
            if segment.live > 0
                && let Err(error) = write_marks(&*self.shared.disk, number, segment, &offsets)
            {
                // The price is a repetition after a restart.
                warn!(%error, "the spill log's cursor was not written");
            }
            segments.entries -= u64::from(count);
            drop(segments);
            self.shared.counters.done.fetch_add(u64::from(count), Ordering::Relaxed);
            self.remove_if_done(number);
        }
    }

    fn remove_if_done(&mut self, number: u32) {
        let segment = {
            let mut segments = self.shared.segments.lock();
            if segments.by_number.get(&number).is_none_or(|segment| segment.live > 0) {
                return;
            }
            let segment = segments.by_number.remove(&number);
            segments.disk_bytes -= segment.as_ref().map_or(0, |segment| segment.bytes);
            segment
        };
        if self.active.as_ref().is_some_and(|active| active.number == number) {
            self.active = None;
        }
        let disk = &self.shared.disk;
        let removed = disk.remove(&segment_name(number));
        if segment.is_some_and(|segment| segment.cursor.is_some()) && removed.is_ok() {
            // Without its segment it says nothing, and opening removes it.
            let _ = disk.remove(&cursor_name(number));
        }
        if let Err(error) = removed {
            warn!(%error, segment = number, "a replayed segment of the spill log could not be removed");
        }
    }
}

fn write_marks(disk: &dyn Disk, number: u32, segment: &mut Segment, offsets: &[u32]) -> io::Result<()> {
    let (file, length) = match &mut segment.cursor {
        Some(cursor) => cursor,
        none => none.insert((disk.create(&cursor_name(number))?, 0)),
    };
    let marks: Vec<u8> = offsets.iter().flat_map(|&offset| mark(segment.salt, offset)).collect();
    write_all(&**file, &marks, *length)?;
    *length += marks.len() as u64;
    Ok(())
}
