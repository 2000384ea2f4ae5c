//! A disk in memory that forgets what was not synced, fills up, and fails.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use tidegate_store::{Disk, DiskFile};

#[derive(Debug, Clone, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Contents>,
    /// The names that survive.
    synced_names: BTreeMap<String, Contents>,
    /// Bytes that may still be written; `None` for a disk without end.
    room: Option<usize>,
    fails: Option<Fails>,
    /// What is on the disk when the power goes after so many writes.
    power_goes_after: Option<(usize, u64)>,
    after_power_went: Option<BTreeMap<String, Vec<u8>>>,
    writes: usize,
    syncs: usize,
}

/// What goes wrong from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    Writes,
    Syncs,
    /// The next sync fails; those after it say that all is well.
    OneSync,
    Creation,
    /// The file layer has a bug.
    Panics,
}

type Contents = Arc<Mutex<Bytes>>;

#[derive(Debug, Clone, Default)]
struct Bytes {
    written: Vec<u8>,
    synced: Vec<u8>,
}

impl Bytes {
    fn make_durable(&mut self) {
        self.synced.clone_from(&self.written);
    }
}

struct Handle {
    disk: SimulatedDisk,
    contents: Contents,
}

impl SimulatedDisk {
    pub(crate) fn with_files(files: BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::default();
        let files: BTreeMap<_, _> = files
            .into_iter()
            .map(|(name, bytes)| {
                let bytes = Bytes { synced: bytes.clone(), written: bytes };
                (name, Arc::new(Mutex::new(bytes)))
            })
            .collect();
        let mut state = disk.0.lock().unwrap();
        state.synced_names.clone_from(&files);
        state.files = files;
        drop(state);
        disk
    }

    /// What a process that is started now finds, if the system went on.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.lock().unwrap();
        let bytes = |contents: &Contents| contents.lock().unwrap().written.clone();
        state.files.iter().map(|(name, contents)| (name.clone(), bytes(contents))).collect()
    }

    /// What is found after the power went: what was synced, and as much of the rest as `luck` says.
    pub(crate) fn lose_power(&self, luck: u64) -> BTreeMap<String, Vec<u8>> {
        self.0.lock().unwrap().survivors(luck)
    }

    /// Has the power go after that many writes from now. What was left then is what [`lose_power`](Self::lose_power)
    /// would have returned.
    pub(crate) fn power_goes_after(&self, writes: usize, luck: u64) {
        let mut state = self.0.lock().unwrap();
        state.power_goes_after = Some((state.writes + writes, luck));
    }

    pub(crate) fn after_power_went(&self) -> Option<BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap().after_power_went.clone()
    }

    pub(crate) fn set_room(&self, room: Option<usize>) {
        self.0.lock().unwrap().room = room;
    }

    pub(crate) fn fail(&self, what: Option<Fails>) {
        self.0.lock().unwrap().fails = what;
    }

    pub(crate) fn syncs(&self) -> usize {
        self.0.lock().unwrap().syncs
    }
}

impl State {
    fn survivors(&self, luck: u64) -> BTreeMap<String, Vec<u8>> {
        let mut left = BTreeMap::new();
        // Names that were made or removed since the last sync of names may be either way, each for itself.
        let mut names = self.synced_names.clone();
        names.extend(self.files.iter().map(|(name, contents)| (name.clone(), Arc::clone(contents))));
        for (index, (name, contents)) in names.iter().enumerate() {
            let is_sure = self.synced_names.contains_key(name) && self.files.contains_key(name);
            if !is_sure && luck.rotate_right(index as u32) & 1 == 0 {
                continue;
            }
            let contents = contents.lock().unwrap();
            let mut bytes = contents.synced.clone();
            let rest = contents.written.get(bytes.len()..).unwrap_or_default();
            let draw = luck.wrapping_mul(6_364_136_223_846_793_005).rotate_left(index as u32) >> 8;
            let kept = draw as usize % (rest.len() + 1);
            bytes.extend_from_slice(&rest[..kept]);
            if draw.is_multiple_of(4) {
                // The length was written, the bytes were not.
                bytes.resize(contents.synced.len() + rest.len(), 0);
            }
            left.insert(name.clone(), bytes);
        }
        left
    }

    /// Counts something that changes the disk, before it does.
    fn step(&mut self) {
        self.writes += 1;
        if let Some((at, luck)) = self.power_goes_after
            && self.writes > at
            && self.after_power_went.is_none()
        {
            self.after_power_went = Some(self.survivors(luck));
        }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimulatedDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().files.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let state = self.0.lock().unwrap();
        let contents = state.files.get(name).ok_or_else(not_found)?;
        let bytes = contents.lock().unwrap().written.clone();
        Ok(bytes)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock().unwrap();
        state.step();
        if state.fails == Some(Fails::Creation) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let contents = Contents::default();
        state.files.insert(name.into(), Arc::clone(&contents));
        Ok(Box::new(Handle { disk: self.clone(), contents }))
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step();
        let contents = state.files.get(name).ok_or_else(not_found)?;
        let mut contents = contents.lock().unwrap();
        contents.written.truncate(bytes as usize);
        contents.make_durable();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step();
        let contents = state.files.remove(from).ok_or_else(not_found)?;
        state.files.insert(to.into(), contents);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step();
        state.files.remove(name).map(drop).ok_or_else(not_found)
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step();
        state.synced_names = state.files.clone();
        Ok(())
    }
}

impl DiskFile for Handle {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.step();
        if state.fails == Some(Fails::Panics) {
            drop(state);
            panic!("on purpose");
        }
        if state.fails == Some(Fails::Writes) {
            return Err(io::Error::other("the device does not answer"));
        }
        let room = state.room.unwrap_or(bytes.len());
        let written = bytes.len().min(room);
        if let Some(room) = &mut state.room {
            *room -= written;
        }
        self.contents.lock().unwrap().written.extend_from_slice(&bytes[..written]);
        if written < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.step();
        state.syncs += 1;
        match state.fails {
            Some(Fails::Syncs) => return Err(io::Error::other("the device does not answer")),
            Some(Fails::OneSync) => {
                state.fails = None;
                return Err(io::Error::other("the device does not answer"));
            }
            _ => {}
        }
        let mut contents = self.contents.lock().unwrap();
        contents.make_durable();
        Ok(())
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.0.lock().unwrap().step();
        self.contents.lock().unwrap().written.truncate(bytes as usize);
        Ok(())
    }
}
