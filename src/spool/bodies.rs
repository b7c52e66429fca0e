//! Originals that are files of their own.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// The directory of body files.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    dir: PathBuf,
}

impl Bodies {
    /// Opens the directory, and makes it where there is none.
    pub(super) fn open(dir: PathBuf) -> io::Result<Bodies> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Bodies { dir })
    }

    /// Makes a file durable: when this returns, content and name survive a power cut. The order matters: content
    /// before name, so that a name never stands for half a file; the directory last, since a rename is
    /// durable only once its directory is.
    pub(super) fn keep(&self, name: &str, content: &Bytes) -> io::Result<()> {
        let (new, path) = (self.dir.join(format!("{name}.new")), self.path(name));
        let kept = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync_dir(&self.dir)
        })();
        if kept.is_err() {
            // Nothing names it; were it to stay, the next start would remove it.
            let _ = fs::remove_file(&new);
            let _ = fs::remove_file(&path);
        }
        kept
    }

    pub(super) fn read(&self, name: &str) -> io::Result<Bytes> {
        fs::read(self.path(name)).map(Bytes::from)
    }

    /// The one place where a body file is removed. Only for files that no row names: after the transaction that
    /// removed the row, or at the start for those that never got one.
    pub(super) fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.path(name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(
                "a body file that is not needed any more stays: {}: {error}",
                self.path(name).display()
            );
        }
    }

    /// All names there are, unfinished files included.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
