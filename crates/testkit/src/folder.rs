//! A folder for the files of one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io};

/// An empty folder among the temporary files. It is deleted with the last of its clones.
#[derive(Debug, Clone)]
pub struct Folder(Arc<Owned>);

#[derive(Debug)]
struct Owned(PathBuf);

impl Folder {
    /// Returns a new one.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("tidegate-files-{}-{number}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(Arc::new(Owned(path))))
    }

    /// Where a file of this name is, or would be.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.0.join(name)
    }

    /// Writes a file, over what was there.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, name: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> io::Result<()> {
        fs::write(self.path(name), contents)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lives_as_long_as_its_last_clone() {
        let folder = Folder::new().unwrap();
        let path = folder.path("file");
        let other = folder.clone();
        drop(folder);
        other.write("file", "text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        assert_ne!(Folder::new().unwrap().path("file"), path);
        drop(other);
        assert!(!path.parent().unwrap().exists());
    }
}
