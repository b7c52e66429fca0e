//! Originals that are files of their own.

use std::any::Any;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::room::Room;
use crate::mail::{Content, Stored};

/// The directory of body files.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    dir: PathBuf,
}

/// A body file that is read.
#[derive(Debug)]
pub(super) struct BodyFile {
    file: File,
    length: u64,
    name: String,
    /// SHA-256 of what was written, where that was here.
    digest: Option<Vec<u8>>,
    /// Where it stands as long as nothing names it; it goes with this value then.
    unfinished: Option<PathBuf>,
}

/// A body file that is written: a message that is still arriving.
///
/// What is written here is not durable, and gone when this value is, until [`super::Spool::commit`]
/// took it as the original of a submission.
pub struct IncomingBody {
    body: BodyFile,
    /// Of what was written so far: to read it all again for that would take as long as to write it.
    digest: Box<Context>,
    /// Where the file may be nobody's in the end, it must leave the room free that new mail leaves
    /// free.
    room: Option<Room>,
}

impl Bodies {
    /// Opens the directory, and makes it where there is none.
    pub(super) fn open(dir: PathBuf) -> io::Result<Bodies> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Bodies { dir })
    }

    /// A new file to write a message into while it arrives.
    pub(super) fn incoming(&self, name: String) -> io::Result<IncomingBody> {
        let new = self.dir.join(format!("{name}.new"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let body = BodyFile {
            file,
            length: 0,
            name,
            digest: None,
            unfinished: Some(new),
        };
        Ok(IncomingBody {
            body,
            digest: Box::new(Context::new(&SHA256)),
            room: None,
        })
    }

    /// The one place where a body file is made durable: when this returns, content and name survive
    /// a power cut. The order matters: content before name, so that a name never stands for half a
    /// file; the directory last, since a rename is durable only once its directory is.
    fn keep(&self, body: &BodyFile) -> io::Result<()> {
        let Some(new) = &body.unfinished else {
            return Err(io::Error::other("it is kept already"));
        };
        let path = self.path(&body.name);
        let kept = (|| {
            body.file.sync_all().map_err(untrusted)?;
            fs::rename(new, &path)?;
            sync_dir(&self.dir).map_err(untrusted)
        })();
        if kept.is_err() {
            // Nothing names it; were it to stay, the next start would remove it.
            let _ = fs::remove_file(&path);
        }
        kept
    }

    /// Makes bytes durable as a file, and gives its name and their SHA-256. A message that was
    /// written while it arrived has its file already; the others get one of this name.
    pub(super) fn keep_content(
        &self,
        name: String,
        content: &Content,
    ) -> io::Result<(String, Vec<u8>)> {
        if let Some(body) = body_file(content)
            && let Some(digest) = &body.digest
        {
            self.keep(body)?;
            return Ok((body.name.clone(), digest.clone()));
        }
        let mut incoming = self.incoming(name)?;
        for piece in content.chunks(0) {
            incoming.append(&piece?)?;
        }
        let (body, digest) = incoming.written();
        self.keep(&body)?;
        Ok((body.name.clone(), digest))
    }

    /// Opens a file to read it.
    pub(super) fn read(&self, name: &str) -> io::Result<BodyFile> {
        let file = File::open(self.path(name))?;
        Ok(BodyFile {
            length: file.metadata()?.len(),
            file,
            name: name.to_owned(),
            digest: None,
            unfinished: None,
        })
    }

    /// The one place where a body file is removed. Only for files that no row names: after the
    /// transaction that removed the row, or at the start for those that never got one.
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

impl IncomingBody {
    /// The same, as long as there is room.
    pub(super) fn within(self, room: Room) -> IncomingBody {
        IncomingBody {
            room: Some(room),
            ..self
        }
    }

    /// Appends a piece. After an error this file is of no use but to be read as far as it was
    /// written before.
    pub fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        if let Some(room) = &self.room {
            room.use_up(piece.len() as u64)?;
        }
        self.body.file.write_all_at(piece, self.body.length)?;
        self.body.length += piece.len() as u64;
        self.digest.update(piece);
        Ok(())
    }

    /// What was written, to be read.
    pub fn finish(self) -> Arc<dyn Stored> {
        Arc::new(self.written().0)
    }

    fn written(self) -> (BodyFile, Vec<u8>) {
        let digest = self.digest.finish().as_ref().to_vec();
        let mut body = self.body;
        body.digest = Some(digest.clone());
        (body, digest)
    }
}

impl fmt::Debug for IncomingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IncomingBody").field(&self.body).finish()
    }
}

impl Stored for BodyFile {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, into: &mut [u8], place: u64) -> io::Result<()> {
        self.file.read_exact_at(into, place)
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        if let Some(new) = &self.unfinished {
            // It has another name if it was kept. If it stays all the same, the next start removes
            // it.
            let _ = fs::remove_file(new);
        }
    }
}

/// The file that a content is in already, if it was written to one while it arrived.
pub(super) fn body_file(content: &Content) -> Option<&BodyFile> {
    let Content::Stored { all, .. } = content else {
        return None;
    };
    (&**all as &dyn Any).downcast_ref()
}

/// A sync that failed is never a matter of room alone, whatever it says: what it was asked to keep
/// may be lost, and the next one would not know.
fn untrusted(cause: io::Error) -> io::Error {
    io::Error::other(format!("a sync failed: {cause}"))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
