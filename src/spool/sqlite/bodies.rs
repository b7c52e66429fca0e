//! Originals in files of their own.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use tracing::warn;

use super::disk_space::DiskSpace;
use crate::mail::{self, Content, Stored};

/// Suffix of a file whose message is still being received or synced.
const DRAFT: &str = ".new";

/// The directory of body files.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    dir: Arc<Path>,
}

/// A complete body file.
#[derive(Debug)]
struct BodyFile {
    file: File,
    length: u64,
}

/// A body file that no row names yet. It is removed with this value, unless it was made durable.
#[derive(Debug)]
struct Draft {
    body: BodyFile,
    dir: Arc<Path>,
    name: String,
    /// SHA-256 of the content, once that is complete.
    sha256: Vec<u8>,
}

/// A body file that is being written: a message that is being received.
///
/// Its content is not durable, and lost with this value, until [`crate::spool::Spool::commit`] stores it
/// as the original of a submission.
pub struct IncomingBody {
    draft: Draft,
    /// Of the content so far: computing it afterwards would take as long as writing the file.
    digest: Box<Context>,
    /// The disk space to respect. A message that turns out to need no journaling must not use up
    /// the space that new mail leaves free.
    space: Option<DiskSpace>,
}

impl Bodies {
    /// Opens the directory, and creates it if it is absent.
    pub(super) fn open(dir: &Path) -> io::Result<Bodies> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Bodies { dir: dir.into() })
    }

    /// Creates a file to write a message to while it is received.
    pub(super) fn create(&self, space: Option<DiskSpace>) -> io::Result<IncomingBody> {
        let name = random_name()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.dir.join(format!("{name}{DRAFT}")))?;
        Ok(IncomingBody {
            draft: Draft {
                body: BodyFile { file, length: 0 },
                dir: self.dir.clone(),
                name,
                sha256: Vec::new(),
            },
            digest: Box::new(Context::new(&SHA256)),
            space,
        })
    }

    /// Makes an original durable as a file, and returns the file's name and the SHA-256. A message
    /// that was written to a file while it was received keeps that file; others get a new one.
    pub(super) fn store(&self, original: &Content) -> io::Result<(String, Vec<u8>)> {
        if let Some(file) = original.body_file() {
            file.make_durable()?;
            return Ok((file.name().to_owned(), file.sha256().to_vec()));
        }
        let mut incoming = self.create(None)?;
        for chunk in original.chunks(0) {
            incoming.append(&chunk?)?;
        }
        let draft = incoming.into_draft();
        mail::BodyFile::make_durable(&draft)?;
        Ok((draft.name.clone(), draft.sha256.clone()))
    }

    /// Opens a file to read it.
    pub(super) fn read(&self, name: &str) -> io::Result<Content> {
        let file = File::open(self.dir.join(name))?;
        let length = file.metadata()?.len();
        Content::stored(Arc::new(BodyFile { file, length }))
    }

    /// The one place where a body file is removed. Only for files that no row names: after the
    /// transaction that removed the row, or at the start for those that never had one.
    pub(super) fn remove(&self, name: &str) {
        let path = self.dir.join(name);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(
                "cannot remove body file {}, which is no longer needed: {error}",
                path.display()
            );
        }
    }

    /// Returns the names of all files, drafts included.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Whether a file of this name was never made durable.
pub(super) fn is_draft(name: &str) -> bool {
    name.ends_with(DRAFT)
}

impl IncomingBody {
    /// Appends a chunk. After an error, only what was written before can be used.
    pub fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        if let Some(space) = &self.space {
            space.use_bytes(chunk.len() as u64)?;
        }
        let body = &mut self.draft.body;
        body.file.write_all_at(chunk, body.length)?;
        body.length += chunk.len() as u64;
        self.digest.update(chunk);
        Ok(())
    }

    /// Returns the complete content, to be read.
    pub fn finish(self) -> Arc<dyn Stored> {
        Arc::new(self.into_draft())
    }

    fn into_draft(self) -> Draft {
        let mut draft = self.draft;
        draft.sha256 = self.digest.finish().as_ref().to_vec();
        draft
    }
}

impl fmt::Debug for IncomingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IncomingBody").field(&self.draft).finish()
    }
}

impl Stored for BodyFile {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

impl Stored for Draft {
    fn len(&self) -> u64 {
        self.body.length
    }

    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.body.read_exact_at(into, offset)
    }

    fn body_file(&self) -> Option<&dyn mail::BodyFile> {
        Some(self)
    }
}

impl Draft {
    fn path(&self) -> PathBuf {
        self.dir.join(format!("{}{DRAFT}", self.name))
    }
}

impl mail::BodyFile for Draft {
    fn name(&self) -> &str {
        &self.name
    }

    fn sha256(&self) -> &[u8] {
        &self.sha256
    }

    /// The one place where a body file is made durable: when this returns, content and name survive
    /// a power cut. The order matters: content before name, so that a name never stands for half a
    /// file; the directory last, since a rename is durable only once its directory is.
    fn make_durable(&self) -> io::Result<()> {
        let path = self.dir.join(&self.name);
        let result = (|| {
            self.body.file.sync_all().map_err(sync_failed)?;
            fs::rename(self.path(), &path)?;
            sync_dir(&self.dir).map_err(sync_failed)
        })();
        if result.is_err() {
            // No row names it; if it stays, the next start removes it.
            let _ = fs::remove_file(&path);
        }
        result
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It has another name if it was made durable. If it stays, the next start removes it.
        let _ = fs::remove_file(self.path());
    }
}

/// A failed sync never means a lack of space alone, whatever the system's error is: what was
/// written may be lost, and the next sync would not report it.
fn sync_failed(cause: io::Error) -> io::Error {
    io::Error::other(format!("sync failed: {cause}"))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Returns a name that no other file has.
fn random_name() -> io::Result<String> {
    let mut random = [0; 12];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the system's random number generator failed"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
