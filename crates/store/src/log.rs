//! The log: batches at its end, and its oldest segment emptied and removed as what it holds is no longer needed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_session::{Change, Delivery, Message};

use crate::clock::{Clock, Now};
use crate::disk::{Disk, DiskFile};
use crate::frame::{self, FrameHead, SEGMENT_HEADER_BYTES};
use crate::mirror::{Mirror, Placed};
use crate::options::{Durability, Options};
use crate::record::{MessageNumber, Record, Reference, SegmentNumber, Step};
use crate::{SessionKey, Status};

/// What may be moved with a batch, beside twice its own length: bounds how much longer a batch takes for it.
const MOVE_BYTES: usize = 64 * 1024;

/// A file counts as this part of a whole segment and its bytes when disk space is weighed, so that many short ones (one
/// for each start) are merged too.
const FILE_SHARE: u64 = 32;

/// What a batch consists of.
#[derive(Debug)]
pub(crate) enum Entry {
    Started,
    Change(SessionKey, Change),
    Retain(Arc<Message>),
}

/// A segment, and what it was once needed for: each of its records may have been moved or be over since.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: SegmentNumber,
    pub(crate) bytes: u64,
    pub(crate) is_damaged: bool,
    messages: Vec<MessageNumber>,
    retained: Vec<MessageNumber>,
    sessions: Vec<SessionKey>,
}

impl Segment {
    pub(crate) fn new(number: SegmentNumber, bytes: u64) -> Self {
        Self {
            number,
            bytes,
            is_damaged: false,
            messages: Vec::new(),
            retained: Vec::new(),
            sessions: Vec::new(),
        }
    }

    pub(crate) fn name(number: SegmentNumber) -> String {
        format!("{number:016x}.log")
    }

    /// The number in a name that [`name`](Self::name) made.
    pub(crate) fn number_in(name: &str) -> Option<SegmentNumber> {
        let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
        u64::from_str_radix(digits, 16).ok()
    }

    pub(crate) fn needs(&mut self, placed: Placed) {
        match placed {
            Placed::Message(number) => self.messages.push(number),
            Placed::Retained(number) => self.retained.push(number),
            Placed::Session(key) => self.sessions.push(key),
        }
    }
}

/// The log of a store. One thread owns it.
pub(crate) struct Log {
    disk: Box<dyn Disk>,
    clock: Box<dyn Clock>,
    options: Options,
    mirror: Mirror,
    /// The oldest first. The last one is written to.
    segments: VecDeque<Segment>,
    file: Box<dyn DiskFile>,
    now: Now,
    /// The batch under way, as it will stand in the file.
    frame: Vec<u8>,
    last_frame: u64,
    /// The oldest segment holds nothing any more once the batch under way is safe.
    first_is_empty: bool,
    pub(crate) status: Status,
}

impl Log {
    /// Goes on with a log that was read: in a new segment, because what stands at the end of the last one may have
    /// been written by a process that was not sure of it either.
    pub(crate) fn new(
        disk: Box<dyn Disk>,
        clock: Box<dyn Clock>,
        options: Options,
        mirror: Mirror,
        segments: VecDeque<Segment>,
        now: Now,
        last_frame: u64,
    ) -> io::Result<Self> {
        let number = segments.back().map_or(0, |last| last.number) + 1;
        let file = create_segment(&*disk, number, last_frame)?;
        let mut log = Self {
            disk,
            clock,
            options,
            mirror,
            segments,
            file,
            now,
            frame: Vec::new(),
            last_frame,
            first_is_empty: false,
            status: Status::default(),
        };
        log.segments.push_back(Segment::new(number, SEGMENT_HEADER_BYTES as u64));
        Ok(log)
    }

    pub(crate) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    pub(crate) fn last_frame(&self) -> u64 {
        self.last_frame
    }

    /// Begins another segment if the present one is long enough. After an error nothing has changed.
    pub(crate) fn roll(&mut self) -> io::Result<()> {
        if self.segments.back().is_some_and(|last| last.bytes < self.options.segment_bytes) {
            return Ok(());
        }
        if self.options.durability == Durability::Os {
            // A finished segment has no holes. Whatever a sync says, it is not asked again.
            self.file.sync().map_err(io::Error::other)?;
        }
        let number = self.current() + 1;
        match create_segment(&*self.disk, number, self.last_frame) {
            Ok(file) => self.file = file,
            Err(error) => {
                // So that the next try can have the name.
                let _ = self.disk.remove(&Segment::name(number));
                return Err(error);
            }
        }
        self.segments.push_back(Segment::new(number, SEGMENT_HEADER_BYTES as u64));
        Ok(())
    }

    /// Makes a batch of entries, and of something that has to be moved.
    pub(crate) fn prepare(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.now = self.now.at(self.clock.now());
        frame::begin(&mut self.frame);
        for entry in entries {
            self.status.changes += 1;
            match entry {
                Entry::Started => self.emit(Record::Started { at: self.now.moment }),
                Entry::Change(key, change) => self.enter(key, change),
                Entry::Retain(message) => self.retain(&message),
            }
        }
        let own_bytes = self.frame.len();
        self.clean(own_bytes * 3 + MOVE_BYTES);
        self.status.moved_bytes += (self.frame.len() - own_bytes) as u64;
        let head =
            FrameHead { number: self.last_frame + 1, moment: self.now.moment, wall_ms: self.clock.wall_ms() };
        let segment = self.current();
        frame::finish(&mut self.frame, segment, head);
    }

    /// Writes the batch to the end of the file. If that fails for want of space, and only then, it may be tried again
    /// after [`take_back`](Self::take_back).
    pub(crate) fn write(&mut self) -> io::Result<()> {
        self.file.append(&self.frame)
    }

    /// Removes what a failed [`write`](Self::write) left.
    pub(crate) fn take_back(&mut self) -> io::Result<()> {
        let bytes = self.segments.back().map_or(0, |last| last.bytes);
        self.file.cut(bytes)
    }

    /// Makes what was written as safe as the options say, and then removes what is no longer needed.
    pub(crate) fn commit(&mut self) -> io::Result<()> {
        let started = Instant::now();
        // What was moved is on disk before the place where it was is gone, whatever else the options say.
        if self.options.durability == Durability::Fsync || self.first_is_empty {
            self.file.sync()?;
        }
        let took = started.elapsed();
        self.last_frame += 1;
        if let Some(last) = self.segments.back_mut() {
            last.bytes += self.frame.len() as u64;
        }
        self.mirror.messages.sweep();
        if std::mem::take(&mut self.first_is_empty) {
            self.remove_first()?;
        }
        self.measure(took);
        Ok(())
    }

    /// Tells whether there is a damaged file that something is still needed of.
    pub(crate) fn has_damage(&self) -> bool {
        self.segments.iter().any(|segment| segment.is_damaged)
    }

    fn current(&self) -> SegmentNumber {
        self.segments.back().map_or(0, |last| last.number)
    }

    fn enter(&mut self, key: SessionKey, change: Change) {
        if !matches!(change, Change::Began { .. }) && !self.mirror.has_session(key) {
            return;
        }
        let step = match change {
            Change::Began { client_id } => Step::Began { client_id },
            Change::Connected { expiry, will } => Step::Connected { expiry, will },
            Change::Disconnected { expiry, will } => Step::Disconnected { at: self.now.moment, expiry, will },
            Change::WillDone => Step::WillDone,
            Change::Ended => Step::Ended,
            Change::Subscribed { filter, subscription } => Step::Subscribed { filter, subscription },
            Change::Unsubscribed { filter } => Step::Unsubscribed { filter },
            Change::Posted { number, delivery } => Step::Posted { number, delivery: self.refer(delivery) },
            Change::Queued { number, delivery } => Step::Queued { number, delivery: self.refer(delivery) },
            Change::Sent { number, packet_id, delivery } => {
                Step::Sent { number, packet_id, delivery: Some(self.refer(delivery)) }
            }
            Change::Dropped { number } => Step::Dropped { number },
            Change::Released { packet_id } => Step::Released { packet_id },
            Change::Completed { packet_id } => Step::Completed { packet_id },
            Change::Received { packet_id } => Step::Received { packet_id },
            Change::Forgotten { packet_id } => Step::Forgotten { packet_id },
        };
        self.emit(Record::Session { key, step });
    }

    fn retain(&mut self, message: &Arc<Message>) {
        if message.payload().is_empty() {
            if self.mirror.has_retained(message.topic()) {
                self.emit(Record::Unretained { topic: message.topic().into() });
            }
        } else {
            let number = self.number_of(message);
            self.emit(Record::Retained { topic: message.topic().into(), number });
        }
    }

    fn refer(&mut self, delivery: Delivery) -> Reference {
        let Delivery { message, qos, retain, subscription_identifiers: identifiers } = delivery;
        Reference { message: self.number_of(&message), qos, retain, identifiers }
    }

    /// The number of a message, which is written before the first time that something refers to it.
    fn number_of(&mut self, message: &Arc<Message>) -> MessageNumber {
        if let Some(number) = self.mirror.messages.number_of(message) {
            return number;
        }
        let number = self.mirror.messages.next_number();
        self.emit(Record::Message { number, message: Arc::clone(message) });
        number
    }

    fn emit(&mut self, record: Record) {
        record.put(self.now, &mut self.frame);
        let Some(last) = self.segments.back_mut() else { return };
        if let Some(placed) = self.mirror.apply(record, last.number) {
            last.needs(placed);
        }
    }

    /// Whether there is more on disk than is worth it.
    fn has_excess(&self) -> bool {
        let whole = self.options.segment_bytes;
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes + whole / FILE_SHARE).sum();
        bytes > 2 * self.mirror.live_bytes() + 2 * (whole + whole / FILE_SHARE)
    }

    /// Writes anew, as part of the batch until that is `until` long, what is needed of the oldest segment.
    fn clean(&mut self, until: usize) {
        if self.segments.len() < 2 || !(self.has_excess() || self.has_damage()) {
            return;
        }
        let current = self.current();
        while self.frame.len() < until {
            let Some(first) = self.segments.front_mut() else { return };
            let number = first.number;
            if let Some(message) = first.messages.pop() {
                if let Some(found) = self.mirror.messages.placed_in(message, number) {
                    let message = Record::Message { number: message, message: Arc::clone(found) };
                    self.emit(message);
                }
            } else if let Some(message) = first.retained.pop() {
                if let Some(topic) = self.mirror.retained_in(message, number) {
                    let topic = topic.into();
                    self.emit(Record::Retained { topic, number: message });
                }
            } else if let Some(key) = first.sessions.pop() {
                if let Some(kept) = self.mirror.session_in(key, number) {
                    for step in kept.checkpoint() {
                        step.put(key, self.now, &mut self.frame);
                    }
                    self.mirror.move_session(key, current);
                    if let Some(last) = self.segments.back_mut() {
                        last.needs(Placed::Session(key));
                    }
                }
            } else {
                self.first_is_empty = true;
                return;
            }
        }
    }

    /// Removes the oldest file. That must be safe before the next one is removed: what ended in that one began here.
    fn remove_first(&mut self) -> io::Result<()> {
        let Some(first) = self.segments.front() else { return Ok(()) };
        let name = Segment::name(first.number);
        let removed = if first.is_damaged {
            self.disk.rename(&name, &format!("{name}.damaged"))
        } else {
            self.disk.remove(&name)
        };
        match removed {
            Ok(()) => {
                self.disk.sync_names()?;
                self.segments.pop_front();
                Ok(())
            }
            // It does no harm, and is tried again with the next batch. Only a start waits for damage to be set aside.
            Err(_) if !first.is_damaged => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn measure(&mut self, sync: Duration) {
        let sync_us = u64::try_from(sync.as_micros()).unwrap_or(u64::MAX);
        let [sessions, messages, retained] = self.mirror.counts();
        let status = &mut self.status;
        status.batches += 1;
        status.written_bytes += self.frame.len() as u64;
        status.disk_bytes = self.segments.iter().map(|segment| segment.bytes).sum();
        status.live_bytes = self.mirror.live_bytes();
        status.segments = self.segments.len();
        status.sessions = sessions;
        status.messages = messages;
        status.retained = retained;
        status.last_sync_us = sync_us;
        status.longest_sync_us = status.longest_sync_us.max(sync_us);
    }
}

/// Creates a segment that is safely there before anything is written to it.
fn create_segment(disk: &dyn Disk, number: SegmentNumber, last_frame: u64) -> io::Result<Box<dyn DiskFile>> {
    let mut file = disk.create(&Segment::name(number))?;
    file.append(&frame::segment_header(number, last_frame))?;
    file.sync()?;
    disk.sync_names()?;
    Ok(file)
}
