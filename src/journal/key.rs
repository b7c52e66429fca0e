//! The secret that seals what we write. Made on first start, readable by the service alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::OFlag;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// File name below the state directory.
const FILE: &str = "seal.key";
/// Bytes of key: the digest's length (RFC 2104 section 3).
const LENGTH: usize = 32;

/// An HMAC-SHA-256 key.
#[derive(Clone)]
pub struct Key(hmac::Key);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("cannot read or make the seal key {path}: {cause}")]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{path} is no seal key (32 bytes in base64); restore it from a backup, or remove it to get a new one"
    )]
    Malformed {
        /// The key file.
        path: PathBuf,
    },
    /// Others can read it.
    #[error(
        "{path} has mode {mode:04o}, so that others can forge seals; set it with: chmod 600 {path}"
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for the seal key")]
    Random,
}

impl Key {
    /// The key of this state directory; makes one where there is none.
    pub fn load_or_create(state_dir: &Path) -> Result<Key, KeyError> {
        let path = Key::path(state_dir);
        match Key::load(&path) {
            Err(KeyError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Key::create(state_dir, &path)?;
                Key::load(&path)
            }
            other => other,
        }
    }

    /// Where the key of this state directory is.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE)
    }

    /// A key that lives as long as the process, for reading commands and tests.
    pub fn ephemeral() -> Result<Key, KeyError> {
        Ok(Key(hmac::Key::new(hmac::HMAC_SHA256, &random()?)))
    }

    fn load(path: &Path) -> Result<Key, KeyError> {
        let failed = |cause| KeyError::Io {
            path: path.to_owned(),
            cause,
        };
        // A link would have somebody else's file for a key.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        match STANDARD.decode(text.trim_end()) {
            Ok(bytes) if bytes.len() == LENGTH => {
                Ok(Key(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
            }
            _ => Err(KeyError::Malformed {
                path: path.to_owned(),
            }),
        }
    }

    /// Makes the file whole or not at all: a key cut short by a power cut would make every seal
    /// that was given before it invalid.
    fn create(state_dir: &Path, path: &Path) -> Result<(), KeyError> {
        let failed = |cause| KeyError::Io {
            path: path.to_owned(),
            cause,
        };
        let text = STANDARD.encode(random()?);
        let new = state_dir.join(format!("{FILE}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&new)
            .map_err(failed)?;
        writeln!(file, "{text}")
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        fs::rename(&new, path).map_err(failed)?;
        File::open(state_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }

    /// The MAC over parts, each preceded by its length so that no two lists of parts are alike.
    pub(super) fn mac(&self, purpose: &str, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }
}

fn random() -> Result<[u8; LENGTH], KeyError> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Key::load_or_create(dir.path()).expect("made");
        let second = Key::load_or_create(dir.path()).expect("loaded");
        assert_eq!(
            first.mac("x", &[b"y"]).as_ref(),
            second.mac("x", &[b"y"]).as_ref()
        );
        let path = dir.path().join(FILE);
        let mode = fs::metadata(&path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(matches!(
            Key::load_or_create(dir.path()),
            Err(KeyError::Exposed { mode: 0o644, .. })
        ));
    }

    #[test]
    fn a_damaged_key_is_not_replaced_silently() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        fs::write(&path, "short").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        assert!(matches!(
            Key::load_or_create(dir.path()),
            Err(KeyError::Malformed { .. })
        ));
    }
}
