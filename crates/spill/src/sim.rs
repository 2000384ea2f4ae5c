//! A disk in memory that loses power, fills up and fails on command. For tests.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Disk, DiskFile};

/// What the disk does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// A write takes no more bytes than this in one call.
    pub short_writes: Option<usize>,
    /// Bytes that the disk still takes; then ENOSPC.
    pub space: Option<u64>,
    /// This many writes from now on, one fails with EIO after it wrote half of its bytes: 0 is the next.
    pub fail_write_in: Option<u64>,
    /// This many syncs from now on, one fails with EIO, and what it should have made safe is gone: 0 is the next.
    pub fail_sync_in: Option<u64>,
    /// Every write and sync fails with EIO.
    pub broken: bool,
}

/// The disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    /// Names as they are after a power loss.
    safe_names: BTreeMap<String, Arc<Mutex<Content>>>,
    faults: Faults,
    writes: u64,
    syncs: u64,
}

#[derive(Debug, Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    safe: Vec<u8>,
    /// Writes since the last sync: each may or may not survive a power loss.
    unsafe_writes: Vec<(usize, Vec<u8>)>,
}

struct SimFile {
    disk: SimDisk,
    content: Arc<Mutex<Content>>,
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// The disk as a power loss would leave it now: what was not synced is gone, or is there, write by write and in any
    /// order, as `survives` says.
    #[must_use]
    pub fn after_power_loss(&self, mut survives: impl FnMut() -> bool) -> Self {
        let state = self.0.lock();
        let mut files = BTreeMap::new();
        for (name, content) in &state.safe_names {
            let content = content.lock();
            let mut bytes = content.safe.clone();
            for (offset, written) in &content.unsafe_writes {
                if survives() {
                    bytes.resize(bytes.len().max(offset + written.len()), 0);
                    bytes[*offset..offset + written.len()].copy_from_slice(written);
                }
            }
            let content = Content { safe: bytes.clone(), bytes, unsafe_writes: Vec::new() };
            files.insert(name.clone(), Arc::new(Mutex::new(content)));
        }
        let state = State { safe_names: files.clone(), files, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A copy of the disk as the operating system sees it, which is what a killed process leaves behind.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.0.lock();
        let copy = |files: &BTreeMap<String, Arc<Mutex<Content>>>| -> BTreeMap<_, _> {
            files
                .iter()
                .map(|(name, content)| {
                    let bytes = content.lock().bytes.clone();
                    let content = Content { safe: bytes.clone(), bytes, unsafe_writes: Vec::new() };
                    (name.clone(), Arc::new(Mutex::new(content)))
                })
                .collect()
        };
        let files = copy(&state.files);
        Self(Arc::new(Mutex::new(State { safe_names: files.clone(), files, ..State::default() })))
    }

    /// Changes the bytes of a file in place.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(content) = self.0.lock().files.get(name) {
            let mut content = content.lock();
            change(&mut content.bytes);
            let Content { bytes, safe, .. } = &mut *content;
            safe.clone_from(bytes);
        }
    }

    /// How many writes and syncs there were.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.writes, state.syncs)
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        if state.faults.broken {
            return Err(eio());
        }
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        state.files.insert(name.to_owned(), Arc::clone(&content));
        Ok(Arc::new(SimFile { disk: self.clone(), content }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.0.lock().files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), content }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.faults.broken {
            return Err(eio());
        }
        state.safe_names = state.files.clone();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.0.lock();
        state.writes += 1;
        if state.faults.broken {
            return Err(eio());
        }
        let mut count = bytes.len().min(state.faults.short_writes.unwrap_or(usize::MAX));
        let fails = due(&mut state.faults.fail_write_in);
        if fails {
            count /= 2;
        }
        if let Some(space) = &mut state.faults.space {
            if *space == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            count = count.min(usize::try_from(*space).unwrap_or(usize::MAX));
            *space -= count as u64;
        }
        drop(state);
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut content = self.content.lock();
        let end = content.bytes.len().max(offset + count);
        content.bytes.resize(end, 0);
        content.bytes[offset..offset + count].copy_from_slice(&bytes[..count]);
        content.unsafe_writes.push((offset, bytes[..count].to_vec()));
        if fails { Err(eio()) } else { Ok(count) }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.lock();
        let rest = usize::try_from(offset).ok().and_then(|at| content.bytes.get(at..)).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.syncs += 1;
        let fails = state.faults.broken || due(&mut state.faults.fail_sync_in);
        drop(state);
        let mut content = self.content.lock();
        if fails {
            // As Linux does it: the pages count as clean and are not what is on the disk.
            content.unsafe_writes.clear();
            return Err(eio());
        }
        let Content { bytes, safe, unsafe_writes } = &mut *content;
        safe.clone_from(bytes);
        unsafe_writes.clear();
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.content.lock().bytes.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.content.lock().bytes.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    }
}

fn due(counter: &mut Option<u64>) -> bool {
    match counter {
        Some(0) => {
            *counter = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}
