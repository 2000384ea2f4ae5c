//! The file layer under the log: what a directory and a file must be able to do, and the real ones.
//!
//! It is a trait so that tests lose power, fill the disk and fail a sync at any moment.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A directory of files without subdirectories, of which this process is the only user.
pub trait Disk: Send + 'static {
    /// Returns the names of all files, in any order.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Returns what a file holds.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Creates a file that did not exist, for appending.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a file that long, at most as long as it is, and what is left of it durable.
    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()>;

    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable which files there are under which names.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that is written at its end.
pub trait DiskFile: Send {
    /// Appends all of `bytes`. After an error any part of them may have been appended.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was appended. After an error nobody knows what is, now or after another sync.
    fn sync(&mut self) -> io::Result<()>;

    /// Makes the file that long again, at most as long as it is.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

/// A directory of the file system, held by this process alone for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Locked. The operating system lets go of it when the process ends, however it ends.
    _lock: File,
}

const LOCK_FILE: &str = "lock";

/// Why a directory was not taken.
#[derive(Debug)]
pub(crate) enum Untaken {
    InUse,
    Io(io::Error),
}

impl From<io::Error> for Untaken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Directory {
    /// Takes the directory, which is created if it does not exist.
    pub(crate) fn take(path: &Path) -> Result<Self, Untaken> {
        fs::create_dir_all(path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Untaken::InUse),
            Err(TryLockError::Error(error)) => Err(Untaken::Io(error)),
        }
    }
}

impl Disk for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is no Unicode is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().append(true).create_new(true).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        if file.metadata()?.len() > bytes {
            file.set_len(bytes)?;
        }
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}
