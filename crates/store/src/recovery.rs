//! The start: what the files hold, what of it can be trusted, and what is handed to the broker.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tidegate_session::{Change, Message, StoredSession};

use crate::SessionKey;
use crate::clock::{Clock, Moment, Now};
use crate::disk::Disk;
use crate::fields::Fields;
use crate::frame::{self, FORMAT, Found, FrameHead, Frames, NoSegment};
use crate::log::{Entry, Log, Segment};
use crate::mirror::Mirror;
use crate::options::{Damage, OnDamage, OpenError, Options, Repair};
use crate::record::{Record, SegmentNumber};

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The sessions, the oldest first, no client identifier twice. Those whose time is over are among them, with
    /// [`Expiry::Now`](tidegate_session::Expiry::Now) and perhaps a will.
    pub sessions: Vec<(SessionKey, StoredSession)>,
    /// The retained messages that have not expired, one for each topic.
    pub retained: Vec<Arc<Message>>,
    /// What was not as it should be.
    pub repair: Repair,
}

/// Reads what `disk` holds and goes on from there.
pub(crate) fn open(
    disk: Box<dyn Disk>,
    clock: Box<dyn Clock>,
    options: Options,
) -> Result<(Log, Recovered), OpenError> {
    let names = disk.names().map_err(OpenError::io("the directory can't be read"))?;
    let mut numbers: Vec<_> = names.iter().filter_map(|name| Segment::number_in(name)).collect();
    numbers.sort_unstable();

    let mut reading = Reading::new(&*disk, &*clock, &numbers)?;
    for &number in &numbers {
        reading.segment(&*disk, number, Some(&number) == numbers.last())?;
    }
    let Reading { mut mirror, segments, mut repair, now, last_frame, torn_at, empty, .. } = reading;
    repair.lost_messages = mirror.complete();
    if options.on_damage == OnDamage::Refuse && repair.is_loss() {
        return Err(OpenError::Damaged(repair));
    }
    if let Some((number, at)) = torn_at {
        let name = Segment::name(number);
        disk.truncate(&name, at).map_err(OpenError::io(format!("{name} can't be cut")))?;
    }
    if let Some(number) = empty {
        let name = Segment::name(number);
        disk.remove(&name).map_err(OpenError::io(format!("{name} can't be removed")))?;
    }

    let mut sessions = mirror.sessions(now.moment);
    let outdated = take_outdated(&mut sessions);
    let (retained, expired) = retained(&mirror, now);
    let mut log = Log::new(disk, clock, options, mirror, segments, now, last_frame)
        .map_err(OpenError::io("a file can't be created"))?;
    // The first batch shows that the disk takes one, and ends what is over, so that it can't come back.
    let mut entries = vec![Entry::Started];
    entries.extend(outdated.into_iter().map(|key| Entry::Change(key, Change::Ended)));
    entries.extend(expired.into_iter().map(Entry::Retain));
    loop {
        log.prepare(entries.drain(..));
        let written = log.write().and_then(|()| log.commit());
        written.map_err(OpenError::io("the first batch can't be written"))?;
        if !log.has_damage() {
            break;
        }
    }
    Ok((log, Recovered { sessions, retained, repair }))
}

/// A log that is being read.
struct Reading {
    mirror: Mirror,
    segments: VecDeque<Segment>,
    repair: Repair,
    now: Now,
    last_frame: u64,
    /// Where the last segment ends, and what stands behind must go.
    torn_at: Option<(SegmentNumber, u64)>,
    /// A last segment that was never begun.
    empty: Option<SegmentNumber>,
}

impl Reading {
    fn new(disk: &dyn Disk, clock: &dyn Clock, numbers: &[SegmentNumber]) -> Result<Self, OpenError> {
        // Deadlines can't be read without the time, and the time stands in the last batch.
        let mut last = None;
        for &number in numbers.iter().rev() {
            let bytes = read(disk, number)?;
            let before = header(&bytes, number)?.unwrap_or_default();
            let heads = Frames::new(&bytes, number, before).filter_map(|found| match found {
                Found::Frame { head, .. } => Some(head),
                Found::Damage { .. } | Found::Tail { .. } => None,
            });
            last = heads.last();
            if last.is_some() {
                break;
            }
        }
        let wall_ms = clock.wall_ms();
        let moment = match last {
            // The store's clock goes on by what passed since, and never back.
            Some(FrameHead { moment, wall_ms: then, .. }) => {
                Moment(moment.0.saturating_add(wall_ms.saturating_sub(then)))
            }
            None => Moment::default(),
        };
        Ok(Self {
            mirror: Mirror::default(),
            segments: VecDeque::new(),
            repair: Repair::default(),
            now: Now { instant: clock.now(), moment },
            last_frame: 0,
            torn_at: None,
            empty: None,
        })
    }

    fn segment(&mut self, disk: &dyn Disk, number: SegmentNumber, is_last: bool) -> Result<(), OpenError> {
        let bytes = read(disk, number)?;
        let mut segment = Segment::new(number, bytes.len() as u64);
        let damage_before = self.repair.damage.len();
        let header = header(&bytes, number)?;
        let has_header = header.is_some();
        // The first segment says where the log begins; every other one goes on where the one before ended.
        let before = match header {
            Some(before) if self.segments.is_empty() => before,
            Some(before) => {
                self.repair.lost_batches += before.saturating_sub(self.last_frame);
                before.max(self.last_frame)
            }
            None => self.last_frame,
        };
        self.last_frame = before;
        let mut has_frames = false;
        for found in Frames::new(&bytes, number, before) {
            match found {
                Found::Frame { head, at, payload } => {
                    if !has_header && !has_frames && self.segments.is_empty() {
                        // Nothing says where the log began.
                        self.last_frame = head.number - 1;
                    }
                    has_frames = true;
                    self.repair.lost_batches += head.number - self.last_frame - 1;
                    self.last_frame = head.number;
                    if !self.batch(payload, &mut segment) {
                        self.damaged(number, at, payload.len());
                    }
                }
                Found::Tail { at, bytes } if is_last && has_header => {
                    self.repair.torn_bytes += bytes as u64;
                    self.torn_at = Some((number, at as u64));
                    segment.bytes = at as u64;
                }
                Found::Damage { at, bytes } | Found::Tail { at, bytes } => self.damaged(number, at, bytes),
            }
        }
        if !has_header {
            if is_last && !has_frames {
                // The process ended while it created the file.
                self.repair.damage.truncate(damage_before);
                self.repair.torn_bytes += bytes.len() as u64;
                self.empty = Some(number);
                return Ok(());
            }
            self.damaged(number, 0, frame::SEGMENT_HEADER_BYTES.min(bytes.len()));
        }
        if is_last && self.torn_at.is_none() {
            // It may never have been synced: what is built upon it is not safer than it is.
            self.torn_at = Some((number, segment.bytes));
        }
        segment.is_damaged = self.repair.damage.len() > damage_before;
        self.segments.push_back(segment);
        Ok(())
    }

    /// Applies a batch, all of it or nothing; `false` for one that can't be read.
    fn batch(&mut self, payload: &[u8], segment: &mut Segment) -> bool {
        let mut fields = Fields::new(payload);
        let mut records = Vec::new();
        while !fields.is_empty() {
            let Some(record) = Record::read(&mut fields, self.now) else { return false };
            records.push(record);
        }
        for record in records {
            if let Some(placed) = self.mirror.apply(record, segment.number) {
                segment.needs(placed);
            }
        }
        true
    }

    fn damaged(&mut self, number: SegmentNumber, at: usize, bytes: usize) {
        self.repair.damage.push(Damage { file: Segment::name(number), at: at as u64, bytes: bytes as u64 });
    }
}

fn read(disk: &dyn Disk, number: SegmentNumber) -> Result<Vec<u8>, OpenError> {
    let name = Segment::name(number);
    disk.read(&name).map_err(OpenError::io(format!("{name} can't be read")))
}

/// The number of the frame before the segment; `None` for a header that is damaged.
fn header(bytes: &[u8], number: SegmentNumber) -> Result<Option<u64>, OpenError> {
    match frame::check_header(bytes, number) {
        Ok(before) => Ok(Some(before)),
        Err(NoSegment::Broken) => Ok(None),
        Err(NoSegment::Newer(found)) => {
            Err(OpenError::NewerFormat { file: Segment::name(number), found, known: FORMAT })
        }
    }
}

/// Takes away the sessions of which a later one has the client identifier: a clean start was under way.
fn take_outdated(sessions: &mut Vec<(SessionKey, StoredSession)>) -> Vec<SessionKey> {
    let latest: HashMap<Box<str>, SessionKey> =
        sessions.iter().map(|(key, session)| (session.client_id.clone(), *key)).collect();
    let outdated = sessions.extract_if(.., |(key, session)| latest.get(&session.client_id) != Some(key));
    outdated.map(|(key, _)| key).collect()
}

/// The retained messages, and for each that has expired one that takes it away.
fn retained(mirror: &Mirror, now: Now) -> (Vec<Arc<Message>>, Vec<Arc<Message>>) {
    let messages = mirror.retained().filter_map(|(_, number)| mirror.messages.get(number));
    let (expired, valid): (Vec<_>, Vec<_>) = messages.partition(|message| message.is_expired(now.instant));
    let removal = |message: &Arc<Message>| {
        Arc::new(Message::new(message.topic(), b"", tidegate_codec::QoS::AtMostOnce, true))
    };
    (valid.into_iter().map(Arc::clone).collect(), expired.into_iter().map(removal).collect())
}
