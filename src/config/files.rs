//! Files named by settings: passwords, certificates and texts. Read once, when the settings load.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};
use rustls::{InconsistentKeys, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::secret::Secret;
use crate::tls;

/// The largest file accepted; a bundle of all public CAs is a quarter of that.
const LARGEST: u64 = 1024 * 1024;

/// Permission bits that a secret file must not have: none for others, no write for the group.
const TOO_OPEN: u32 = 0o027;

/// The shortest token: whoever guesses it may act for the operator, and nobody types it from memory.
const SHORTEST_TOKEN: usize = 16;

/// A problem with a file named by a setting; continues a sentence that begins with the file name.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// The file is missing or cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Permission is denied; contains the command that grants it.
    #[error("cannot be read: Permission denied; {0}")]
    Denied(String),
    /// A directory, a device, a pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// Longer than 1 MB.
    #[error("is longer than 1 MB")]
    TooLong,
    /// Other users may read or change a secret.
    #[error("is accessible to other users (mode {mode:03o})")]
    TooOpen {
        /// Its permission bits.
        mode: u32,
    },
    /// No password in it.
    #[error("is empty")]
    Empty,
    /// The token is easy to guess or cannot be sent in an HTTP field.
    #[error(
        "contains no valid token (at least {SHORTEST_TOKEN} printable ASCII characters, no spaces)"
    )]
    NoToken,
    /// The content is not UTF-8, which no protocol could send as a password.
    #[error("is not UTF-8")]
    NotUtf8,
    /// No certificate.
    #[error("contains no PEM certificate")]
    NoCertificate,
    /// A truncated certificate, or invalid base64.
    #[error("contains a truncated or corrupt certificate")]
    BadCertificate,
    /// No private key, or one with a passphrase.
    #[error("contains no PEM private key without a passphrase")]
    NoKey,
    /// A truncated private key, or invalid base64.
    #[error("contains a truncated or corrupt private key")]
    BadKey,
    /// The key belongs to another certificate.
    #[error("does not match the certificate in {0}")]
    OtherKey(String),
    /// The TLS library cannot use the key.
    #[error("contains an unusable private key: {0}")]
    UnusableKey(String),
    /// The TLS library cannot use the certificate.
    #[error("contains an unusable certificate: {0}")]
    UnusableCertificate(String),
}

/// Returns the command that lets this process's user read a file.
pub(super) fn permission_remedy(path: &Path) -> String {
    let (user, group) = (Uid::effective(), Gid::effective());
    let user = User::from_uid(user)
        .ok()
        .flatten()
        .map_or(user.to_string(), |user| user.name);
    let group = Group::from_gid(group)
        .ok()
        .flatten()
        .map_or(group.to_string(), |group| group.name);
    // A path that cannot be examined is behind a closed directory: that one is reported.
    let is_seen = |path: &&Path| path.symlink_metadata().is_ok();
    let seen = path.ancestors().find(is_seen).unwrap_or(path);
    let mode = seen.metadata().map_or(0, |found| found.mode() & 0o7777);
    let bit = if seen == path { 'r' } else { 'x' };
    let shown = seen.display();
    format!(
        "{shown} has mode {mode:04o}, and this process runs as {user}; run as root: chgrp {group} {shown} && chmod \
         g+{bit} {shown}"
    )
}

/// Returns the password in a file, without the trailing newline.
pub(super) fn password(path: &Path) -> Result<Secret, FileError> {
    let text = String::from_utf8(secret(path)?).map_err(|_| FileError::NotUtf8)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(FileError::Empty),
        password => Ok(Secret::new(password)),
    }
}

/// Returns the token in a file, without the trailing newline.
pub(super) fn token(path: &Path) -> Result<Secret, FileError> {
    let token = password(path)?;
    let text = token.reveal();
    if text.len() < SHORTEST_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(FileError::NoToken);
    }
    Ok(token)
}

/// Returns the content of a file.
pub(super) fn content(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path).map(|(bytes, _)| bytes)
}

/// Returns the content of a file as text.
pub(super) fn text(path: &Path) -> Result<String, FileError> {
    String::from_utf8(content(path)?).map_err(|_| FileError::NotUtf8)
}

/// Returns the content of a file that must not be accessible to others.
fn secret(path: &Path) -> Result<Vec<u8>, FileError> {
    let (bytes, metadata) = read(path)?;
    match metadata.mode() & 0o777 {
        mode if mode & TOO_OPEN != 0 => Err(FileError::TooOpen { mode }),
        _ => Ok(bytes),
    }
}

/// Returns the certificates in a file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let (bytes, _) = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| FileError::BadCertificate)?;
    if found.is_empty() {
        return Err(FileError::NoCertificate);
    }
    Ok(found)
}

/// Returns the private key in a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&secret(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => FileError::NoKey,
        _ => FileError::BadKey,
    })
}

/// Checks that a server can present these certificates, the first of them its own, with this key.
/// `name` is the certificates' file.
pub(super) fn check_pair(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    name: &str,
) -> Result<(), FileError> {
    let server = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| FileError::UnusableKey(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, key);
    match server {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(FileError::OtherKey(format!("{name:?}")))
        }
        Err(rustls::Error::InvalidCertificate(error)) => {
            Err(FileError::UnusableCertificate(error.to_string()))
        }
        Err(rustls::Error::General(what)) => Err(FileError::UnusableKey(what)),
        Err(error) => Err(FileError::UnusableKey(error.to_string())),
    }
}

/// Checks that a file of any length can be read.
pub(super) fn check_readable(path: &Path) -> Result<(), FileError> {
    open(path).map(|_| ())
}

fn open(path: &Path) -> Result<(File, Metadata), FileError> {
    let denied = |cause: io::Error| match cause.kind() {
        io::ErrorKind::PermissionDenied => FileError::Denied(permission_remedy(path)),
        _ => FileError::Unreadable(cause),
    };
    // Examined before it is opened: opening a pipe would wait for a writer.
    if !path.metadata().map_err(denied)?.is_file() {
        return Err(FileError::NotAFile);
    }
    let file = File::open(path).map_err(denied)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

fn read(path: &Path) -> Result<(Vec<u8>, Metadata), FileError> {
    let (file, metadata) = open(path)?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(FileError::TooLong);
    }
    Ok((bytes, metadata))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn with(content: &[u8], mode: u32) -> Result<Secret, FileError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), content).expect("written");
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).expect("set");
        password(file.path())
    }

    #[test]
    fn a_password_keeps_all_but_its_trailing_newline() {
        for (content, secret) in [("a b \n", "a b "), ("a\r\n", "a"), (" ä", " ä")] {
            let password = with(content.as_bytes(), 0o600).expect("a password");
            assert_eq!(password.reveal(), secret);
        }
    }

    #[test]
    fn a_password_file_is_closed_to_other_users() {
        for mode in [0o400, 0o600, 0o640, 0o440] {
            assert!(with(b"x", mode).is_ok(), "{mode:o}");
        }
        for mode in [0o644, 0o660, 0o604, 0o602, 0o777] {
            assert!(
                matches!(with(b"x", mode), Err(FileError::TooOpen { mode: found }) if found == mode),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn an_invalid_password_file_is_rejected() {
        assert!(matches!(with(b"\n", 0o600), Err(FileError::Empty)));
        assert!(matches!(with(b"\xff", 0o600), Err(FileError::NotUtf8)));
        let long = vec![b'x'; LARGEST as usize + 1];
        assert!(matches!(with(&long, 0o600), Err(FileError::TooLong)));
        let pipe = Path::new("/dev/null");
        assert!(matches!(password(pipe), Err(FileError::NotAFile)));
    }
}
