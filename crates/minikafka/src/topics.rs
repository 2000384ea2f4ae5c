//! The topics: which there are, how they come and go, and where they lie in a data directory.
//!
//! ```text
//! <data>/topics/<topic>/settings             max.message.bytes and what else was given at creation, a line each
//! <data>/topics/<topic>/<partition>/<first offset>.log
//! <data>/incoming/<topic>                    a topic that is being made: it appears whole, by a rename, or not at all
//! <data>/leaving/                            the same for one that is being deleted
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::ErrorCode;
use crate::error::Error;
use crate::log::{Limits, PartitionLog};
use crate::partition::{Partition, Safety};

/// Partitions of all topics together: each holds a file open.
pub(crate) const MAX_PARTITIONS: usize = 1024;
/// Bytes of a topic's name, as in Kafka.
const MAX_NAME_BYTES: usize = 249;
/// Configuration entries that a topic may be created with.
const MAX_SETTINGS: usize = 64;

/// A topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) partitions: Vec<Arc<Partition>>,
    pub(crate) max_message_bytes: AtomicUsize,
    /// What the topic was created with, told to those who ask; only max.message.bytes means something here.
    pub(crate) settings: BTreeMap<String, String>,
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// What every topic is made with.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) safety: Safety,
    pub(crate) nodes: i32,
    pub(crate) max_message_bytes: usize,
    pub(crate) total_retention_bytes: u64,
    pub(crate) changes: watch::Sender<u64>,
}

/// All topics.
#[derive(Debug)]
pub(crate) struct Topics {
    defaults: Defaults,
    by_name: RwLock<BTreeMap<String, Arc<Topic>>>,
    /// One topic comes or goes at a time; the map's lock is not held while the disk works.
    changing: Mutex<()>,
}

impl Topics {
    /// Opens what the data directory holds.
    pub(crate) fn open(defaults: Defaults) -> Result<Self, Error> {
        let mut topics = BTreeMap::new();
        if let Some(data) = defaults.data_dir.clone() {
            let storage = |source| Error::Storage { path: data.clone(), source };
            for half in ["incoming", "leaving"] {
                match fs::remove_dir_all(data.join(half)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(storage(error)),
                    _ => fs::create_dir_all(data.join(half)).map_err(storage)?,
                }
            }
            fs::create_dir_all(data.join("topics")).map_err(storage)?;
            for entry in fs::read_dir(data.join("topics")).map_err(storage)? {
                let entry = entry.map_err(storage)?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
                if valid_name(&name) {
                    topics.insert(name, Arc::new(defaults.open_topic(&entry.path())?));
                }
            }
        }
        Ok(Self { defaults, by_name: RwLock::new(topics), changing: Mutex::default() })
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(String, Arc<Topic>)> {
        self.by_name.read().iter().map(|(name, topic)| (name.clone(), Arc::clone(topic))).collect()
    }

    /// The partition of the topic, for a request that reached `node`.
    pub(crate) fn partition(&self, topic: &str, index: i32) -> Result<Arc<Partition>, ErrorCode> {
        let topic = self.get(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        topic.partition(index).cloned().ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    }

    /// Whether a topic could be created like this.
    pub(crate) fn check_new(
        &self,
        name: &str,
        partitions: i32,
        settings: &BTreeMap<String, String>,
    ) -> Result<usize, ErrorCode> {
        if !valid_name(name) {
            return Err(ErrorCode::INVALID_TOPIC_EXCEPTION);
        }
        if self.get(name).is_some() {
            return Err(ErrorCode::TOPIC_ALREADY_EXISTS);
        }
        let wanted =
            usize::try_from(partitions).ok().filter(|&n| n > 0).ok_or(ErrorCode::INVALID_PARTITIONS)?;
        let existing: usize = self.by_name.read().values().map(|topic| topic.partitions.len()).sum();
        if existing + wanted > MAX_PARTITIONS {
            return Err(ErrorCode::POLICY_VIOLATION);
        }
        let printable = |text: &str| !text.contains(['\n', '\r']);
        let fine =
            settings.iter().all(|(key, value)| printable(key) && printable(value) && !key.contains('='));
        if settings.len() > MAX_SETTINGS || !fine || message_limit(settings).is_err() {
            return Err(ErrorCode::INVALID_CONFIG);
        }
        Ok(wanted)
    }

    /// Creates a topic; may use the disk.
    pub(crate) fn create(
        &self,
        name: &str,
        partitions: i32,
        settings: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>, ErrorCode> {
        let _changing = self.changing.lock();
        let wanted = self.check_new(name, partitions, &settings)?;
        let made = self.defaults.make_topic(name, wanted, settings);
        let topic = Arc::new(made.map_err(|error| {
            tracing::error!(%error, topic = name, "can't create the topic");
            ErrorCode::KAFKA_STORAGE_ERROR
        })?);
        self.by_name.write().insert(name.to_owned(), Arc::clone(&topic));
        tracing::info!(topic = name, partitions, "topic created");
        self.defaults.changes.send_modify(|n| *n += 1);
        Ok(topic)
    }

    /// Deletes a topic; may use the disk.
    pub(crate) fn delete(&self, name: &str) -> Result<(), ErrorCode> {
        let _changing = self.changing.lock();
        let removed = self.by_name.write().remove(name);
        let topic = removed.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        topic.partitions.iter().for_each(|partition| partition.close());
        if let Some(data) = &self.defaults.data_dir {
            let gone = data.join("leaving").join(name);
            let renamed = fs::rename(data.join("topics").join(name), &gone);
            if let Err(error) = renamed.and_then(|()| fs::remove_dir_all(&gone)) {
                tracing::error!(%error, topic = name, "can't delete the topic's files");
                return Err(ErrorCode::KAFKA_STORAGE_ERROR);
            }
        }
        tracing::info!(topic = name, "topic deleted");
        Ok(())
    }

    /// Keeps all logs together under their bound: the largest partition gives up its oldest segment, until it fits.
    pub(crate) fn enforce_total(&self) {
        let total = &self.defaults.limits.total;
        // As many rounds as there can be partitions with something to give; a failing disk ends it too.
        for _ in 0..MAX_PARTITIONS {
            let before = total.load(Ordering::Relaxed);
            if before <= self.defaults.total_retention_bytes {
                return;
            }
            let partitions = self.all().into_iter().flat_map(|(_, topic)| topic.partitions.clone());
            let Some(largest) = partitions.max_by_key(|partition| partition.with_log(|log| log.bytes()))
            else {
                return;
            };
            largest.with_log(PartitionLog::drop_oldest);
            if total.load(Ordering::Relaxed) >= before {
                return;
            }
        }
    }
}

impl Defaults {
    fn partition(&self, index: usize, dir: Option<PathBuf>) -> Result<Arc<Partition>, Error> {
        let log = PartitionLog::open(dir, self.limits.clone())?;
        let index = crate::wire::length(index);
        let leader = (index % self.nodes) + 1;
        let (safety, changes) = (self.safety.clone(), self.changes.clone());
        Ok(Arc::new(Partition::new(index, log, leader, safety, changes)))
    }

    fn topic(&self, partitions: Vec<Arc<Partition>>, settings: BTreeMap<String, String>) -> Topic {
        let limit = message_limit(&settings).ok().flatten().unwrap_or(self.max_message_bytes);
        Topic { partitions, max_message_bytes: AtomicUsize::new(limit), settings }
    }

    fn make_topic(
        &self,
        name: &str,
        partitions: usize,
        settings: BTreeMap<String, String>,
    ) -> Result<Topic, Error> {
        let Some(data) = &self.data_dir else {
            let partitions =
                (0..partitions).map(|index| self.partition(index, None)).collect::<Result<_, _>>()?;
            return Ok(self.topic(partitions, settings));
        };
        let incoming = data.join("incoming").join(name);
        let path = data.join("topics").join(name);
        let write = || -> io::Result<()> {
            for index in 0..partitions {
                fs::create_dir_all(incoming.join(index.to_string()))?;
            }
            let mut text = String::new();
            for (key, value) in &settings {
                let _ = writeln!(text, "{key}={value}");
            }
            fs::write(incoming.join("settings"), text)?;
            File::open(incoming.join("settings"))?.sync_all()?;
            File::open(&incoming)?.sync_all()?;
            fs::rename(&incoming, &path)?;
            File::open(data.join("topics"))?.sync_all()
        };
        write().map_err(|source| Error::Storage { path: path.clone(), source })?;
        self.open_topic(&path)
    }

    fn open_topic(&self, path: &Path) -> Result<Topic, Error> {
        let storage = |source| Error::Storage { path: path.to_owned(), source };
        let text = fs::read_to_string(path.join("settings")).map_err(storage)?;
        let settings = text.lines().filter_map(|line| line.split_once('='));
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut partitions = Vec::new();
        loop {
            let dir = path.join(partitions.len().to_string());
            if !dir.is_dir() {
                break;
            }
            partitions.push(self.partition(partitions.len(), Some(dir))?);
        }
        Ok(self.topic(partitions, settings))
    }
}

fn message_limit(settings: &BTreeMap<String, String>) -> Result<Option<usize>, std::num::ParseIntError> {
    settings.get("max.message.bytes").map(|text| text.parse()).transpose()
}

/// Kafka's rule: letters, digits, dot, underscore and dash; it is safe as a name of a directory.
fn valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_name_can_never_leave_the_data_directory() {
        for name in ["", ".", "..", "a/b", "a\\b", "a\0", "ä", "a b", &"x".repeat(250)] {
            assert!(!valid_name(name), "{name:?}");
        }
        for name in ["a", "...", "plant-7.temperature_C", &"x".repeat(249)] {
            assert!(valid_name(name), "{name:?}");
        }
    }
}
