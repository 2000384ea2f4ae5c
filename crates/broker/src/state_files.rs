//! What rules remember, on disk: one file for each rule, replaced whole by each snapshot.
//!
//! A file is four letters, the version of the format, the rule's id and its state, each with its length in four bytes
//! in front, and the CRC-32C of all of that. Numbers are big-endian.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

const MAGIC: &[u8; 4] = b"TGRF";
const VERSION: u8 = 1;

/// Letters of a rule's id that stand in the name of its file.
const NAME_LETTERS: usize = 64;

/// What rules remember can't be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateFileError {
    /// The directory or a file in it can't be used.
    #[error("what rules remember can't be kept in {}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A newer version of Tidegate wrote the file: this one would destroy what it does not understand.
    #[error(
        "{} was written by a newer version, in format {found}, and this one knows format {VERSION}: run that version, or move the file away and lose what the rule remembers",
        path.display()
    )]
    NewerFormat {
        /// Which.
        path: PathBuf,
        /// Of the file.
        found: u8,
    },
}

/// The directory of these files. One process uses it at a time.
#[derive(Debug)]
pub(crate) struct StateFiles {
    directory: PathBuf,
    /// Locked until it is released, or the process ends.
    lock: Mutex<Option<File>>,
}

impl StateFiles {
    /// Takes the directory, which is created if it does not exist.
    pub(crate) fn open(directory: PathBuf) -> Result<Self, StateFileError> {
        let take = || {
            fs::create_dir_all(&directory)?;
            let lock =
                File::options().create(true).truncate(false).write(true).open(directory.join("lock"))?;
            lock.try_lock().map_err(io::Error::from)?;
            Ok(lock)
        };
        match take() {
            Ok(lock) => Ok(Self { directory, lock: Mutex::new(Some(lock)) }),
            Err(error) => Err(StateFileError::Io { path: directory, error }),
        }
    }

    /// Lets another process have the directory; nothing is saved from then on.
    pub(crate) fn release(&self) {
        self.lock.lock().take();
    }

    /// What was saved for a rule, if anything. A damaged file is said loudly, put aside for whoever wants to look at
    /// it, and then there is nothing.
    pub(crate) fn load(&self, rule: &str) -> Result<Option<Vec<u8>>, StateFileError> {
        let path = self.path(rule);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateFileError::Io { path, error }),
        };
        match parse(&bytes) {
            Ok((id, state)) if id == rule.as_bytes() => Ok(Some(state.to_vec())),
            Ok(_) => {
                self.put_aside(rule, "it belongs to another rule");
                Ok(None)
            }
            Err(Unreadable::Newer(found)) => Err(StateFileError::NewerFormat { path, found }),
            Err(Unreadable::Damaged) => {
                self.put_aside(rule, "it is damaged");
                Ok(None)
            }
        }
    }

    /// The error for a rule's state that a newer version wrote inside a file of this format.
    pub(crate) fn newer_format(&self, rule: &str, found: u8) -> StateFileError {
        StateFileError::NewerFormat { path: self.path(rule), found }
    }

    /// Puts a rule's file out of the way.
    pub(crate) fn put_aside(&self, rule: &str, why: &str) {
        let path = self.path(rule);
        let aside = path.with_extension("unreadable");
        let moved = fs::rename(&path, &aside);
        tracing::error!(
            rule, path = %path.display(), aside = %aside.display(), ?moved,
            "the file of what a rule remembers can't be read, because {why}: the rule begins with nothing"
        );
    }

    /// Replaces what was saved for a rule. When it returns, the new state is on disk; on an error, the old one or the
    /// new one is.
    pub(crate) fn save(&self, rule: &str, state: &[u8]) -> io::Result<()> {
        let lock = self.lock.lock();
        if lock.is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let path = self.path(rule);
        let new = path.with_extension("new");
        let mut bytes = Vec::with_capacity(state.len() + rule.len() + 17);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        for part in [rule.as_bytes(), state] {
            let length = u32::try_from(part.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sync_directory(&self.directory)
    }

    /// Of the letters of the id that a file's name may have, and a number that tells ids apart which share them.
    fn path(&self, rule: &str) -> PathBuf {
        let plain = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        let mut name: String = rule.chars().filter(plain).take(NAME_LETTERS).collect();
        // Writing to a String does not fail.
        let _ = write!(name, "-{:08x}.state", crc32c::crc32c(rule.as_bytes()));
        self.directory.join(name)
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    Damaged,
    Newer(u8),
}

/// The rule's id and its state.
fn parse(bytes: &[u8]) -> Result<(&[u8], &[u8]), Unreadable> {
    let body = bytes.strip_prefix(MAGIC).ok_or(Unreadable::Damaged)?;
    let (&version, _) = body.split_first().ok_or(Unreadable::Damaged)?;
    let (content, sum) = bytes.split_last_chunk::<4>().ok_or(Unreadable::Damaged)?;
    let is_whole = crc32c::crc32c(content) == u32::from_be_bytes(*sum);
    // What comes next may look different in a newer format, and so may its sum: the version alone decides.
    if version > VERSION {
        return Err(Unreadable::Newer(version));
    }
    if version != VERSION || !is_whole {
        return Err(Unreadable::Damaged);
    }
    let rest = content.get(MAGIC.len() + 1..).ok_or(Unreadable::Damaged)?;
    let (id, rest) = part(rest).ok_or(Unreadable::Damaged)?;
    match part(rest) {
        Some((state, [])) => Ok((id, state)),
        _ => Err(Unreadable::Damaged),
    }
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(name: &str) -> StateFiles {
        let directory = std::env::temp_dir().join(format!("tidegate-states-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        StateFiles::open(directory).unwrap()
    }

    #[test]
    fn what_was_saved_last_is_loaded_whatever_the_id_looks_like() {
        let files = files("saved");
        let long = "x".repeat(1000);
        for id in ["plain", "../../etc/passwd", "", "wärme/7", "warme7", &long] {
            assert_eq!(files.load(id).unwrap(), None, "{id}");
            files.save(id, b"first").unwrap();
            files.save(id, id.as_bytes()).unwrap();
        }
        for id in ["plain", "../../etc/passwd", "", "wärme/7", "warme7", &long] {
            assert_eq!(files.load(id).unwrap().as_deref(), Some(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn a_flipped_bit_or_a_missing_end_is_put_aside_and_a_newer_format_is_not_touched() {
        let files = files("damaged");
        files.save("rule", b"some state").unwrap();
        let path = files.path("rule");
        let whole = fs::read(&path).unwrap();
        let damages = (0..whole.len()).filter(|at| *at != MAGIC.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        let cuts = (0..whole.len()).map(|at| whole[..at].to_vec());
        for bytes in damages.chain(cuts) {
            fs::write(&path, &bytes).unwrap();
            assert_eq!(files.load("rule").unwrap(), None, "{bytes:?}");
            assert!(!path.exists() && path.with_extension("unreadable").exists());
        }
        let mut newer = whole.clone();
        newer[MAGIC.len()] = VERSION + 1;
        fs::write(&path, &newer).unwrap();
        assert!(matches!(files.load("rule"), Err(StateFileError::NewerFormat { found: 2, .. })));
        assert_eq!(fs::read(&path).unwrap(), newer);
    }

    #[test]
    fn a_directory_belongs_to_one_process() {
        let files = files("taken");
        assert!(matches!(StateFiles::open(files.directory.clone()), Err(StateFileError::Io { .. })));
    }
}
