//! A log on disk for entries that their destination does not take now: appended in order, safe when [`Log::append`] says
//! so, read back one by one, and forgotten when they are done. All that is appended while the disk is busy is made safe
//! by one sync.
//!
//! It knows nothing about what an entry holds, and does not decide what is appended, when, or what is read next. It is no
//! store: entries are numbered, not named.
//!
//! ```
//! use std::sync::{Arc, mpsc};
//! use tidegate_spill::{Directory, Log, Options};
//!
//! # let folder = std::env::temp_dir().join(format!("tidegate-spill-doc-{}", std::process::id()));
//! let disk = Arc::new(Directory::take(&folder)?);
//! let mut left_behind = Vec::new();
//! let (log, recovery) = Log::open(disk, Options::default(), |id, bytes| left_behind.push((id, bytes.to_vec())))?;
//! assert!(recovery.damaged.is_empty());
//!
//! let (tell, told) = mpsc::channel();
//! log.append(b"what Kafka did not take".to_vec(), move |result| drop(tell.send(result)));
//! let id = told.recv()??; // Safe from here on, whatever is killed.
//! assert_eq!(log.read(id)?, b"what Kafka did not take");
//! log.done(id); // Never to be seen again.
//! # drop(log); std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The types to know: [`Log`], [`EntryId`], [`Recovery`] (what an earlier process left behind), [`Disk`] (the file
//! layer, which tests replace).
//!
//! # What is promised
//!
//! - An append succeeds after the entry and the name of its file were synced. When a write or a sync fails, everything
//!   of that group fails, and its segment is never written or synced again: the next append begins another.
//! - [`Log::open`] gives back every entry that succeeded and is not done, in the order of the appends. It may also give
//!   back one that was being appended when the process ended.
//! - Every entry has a checksum. One that changed on disk is reported in [`Recovery::damaged`], never handed out, and
//!   costs no other entry.
//! - [`Log::done`] is written at once and not synced: it survives the process, and after a power loss some entries come
//!   back that were done.
//! - A segment is removed when all its entries are done. Nothing is on disk when nothing waits.
//!
//! Features: `sim` adds the module `sim`, a disk in memory that fails on command.

mod disk;
mod frame;
mod log;
mod recovery;
#[cfg(feature = "sim")]
pub mod sim;

use std::io;

use thiserror::Error;

pub use disk::{Directory, Disk, DiskFile};
pub use log::{EntryId, Log, Options, Status};
pub use recovery::Recovery;

/// Why a log could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the directory.
    #[error("another process uses this directory")]
    InUse,
    /// A later version of this crate wrote it. Nothing was changed.
    #[error(
        "{segment} has format {version}, which is newer than this program reads: start the newer one again"
    )]
    NewerFormat {
        /// The file.
        segment: String,
        /// Its version.
        version: u8,
    },
    /// The file system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why an entry was not appended. It is not safe, and the caller still has to care for it.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The log is as large as it may be.
    #[error("the quota of {quota_bytes} bytes is used up")]
    Full {
        /// What was allowed.
        quota_bytes: u64,
    },
    /// Larger than a segment.
    #[error("an entry may have {max_bytes} bytes")]
    TooLarge {
        /// The most that an entry may have.
        max_bytes: usize,
    },
    /// The disk did not take it, or not surely.
    #[error("the disk failed: {0}")]
    Disk(String),
    /// The log was dropped.
    #[error("the log is closed")]
    Closed,
}

/// Why an entry could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It was done, and its segment is gone.
    #[error("the entry is gone")]
    Gone,
    /// Its bytes are not those that were written.
    #[error("the entry's bytes have changed on disk")]
    Damaged,
    /// The file system.
    #[error(transparent)]
    Io(#[from] io::Error),
}
