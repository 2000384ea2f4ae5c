//! What an operator decides about a store, and what opening one can say.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How a store keeps what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Where its files are. The directory is created if it does not exist, and belongs to one process at a time.
    pub directory: PathBuf,
    /// When a change counts as safe.
    pub durability: Durability,
    /// How long a batch waits for more changes before it is written. Without, a batch is what gathers while the one
    /// before is written, which is best wherever a sync takes longer than a lock.
    pub linger: Duration,
    /// Memory of changes that are not safe, in bytes, above which nobody should read more: see
    /// [`Store::poll_room`](crate::Store::poll_room).
    pub max_pending_bytes: usize,
    /// The length at which a file is finished and the next is begun. The store takes on disk twice what it needs and
    /// two of these.
    pub segment_bytes: u64,
    /// What to do about bytes that are not what was written.
    pub on_damage: OnDamage,
}

impl Options {
    /// Returns the defaults: fsync, no linger, 64 MiB pending, segments of 32 MiB, damage set aside.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            durability: Durability::default(),
            linger: Duration::ZERO,
            max_pending_bytes: 64 << 20,
            segment_bytes: 32 << 20,
            on_damage: OnDamage::default(),
        }
    }
}

/// What a change has survived before anything is promised because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A sync to the device: it survives the loss of power.
    #[default]
    Fsync,
    /// A write: it survives the end of the process, however that comes, and not the end of the operating system.
    Os,
}

/// What opening does about bytes that are not what was written, other than the torn end of the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Goes on with everything else, sets the file aside as `*.damaged`, and reports it in [`Repair`].
    #[default]
    Quarantine,
    /// Refuses with [`OpenError::Damaged`] and changes nothing.
    Refuse,
}

/// What opening a store had to do before it was as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Repair {
    /// Bytes of a write that was under way when the process ended, and were cut off. Nothing was promised for them.
    pub torn_bytes: u64,
    /// Bytes that are not what was written. What they held is lost, although it may have been promised.
    pub damage: Vec<Damage>,
    /// Batches that are missing in the order of those which are there.
    pub lost_batches: u64,
    /// Messages that a session waits for, or a topic retains, and that are nowhere.
    pub lost_messages: usize,
}

impl Repair {
    /// Tells whether something is lost that may have been promised.
    pub fn is_loss(&self) -> bool {
        !self.damage.is_empty() || self.lost_batches > 0 || self.lost_messages > 0
    }
}

/// A place of a file that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The name of the file when it was read.
    pub file: String,
    /// Where in the file.
    pub at: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it, or another store of this one.
    #[error("{} is in use by another process", .directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// A later version of this software wrote it, and this one would misread it.
    #[error("{file} has format {found}, written by a newer version; this one knows format {known} and older")]
    NewerFormat {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The latest that is known here.
        known: u32,
    },
    /// It is damaged, and [`OnDamage::Refuse`] says not to go on.
    #[error("{} places of the store are damaged, the first in {} at byte {}", .0.damage.len(), first(.0).file, first(.0).at)]
    Damaged(Repair),
    /// The file system can't.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        #[source]
        error: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

/// The first damage; lost batches alone have no place.
fn first(repair: &Repair) -> Damage {
    let nowhere = || Damage { file: "no file".into(), at: 0, bytes: 0 };
    repair.damage.first().cloned().unwrap_or_else(nowhere)
}
