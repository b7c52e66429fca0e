//! Files that settings name: passwords and certificates. Read once, while the settings are loaded.

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

/// The largest file that is read; a certificate bundle of all the world is a quarter of that.
const LARGEST: u64 = 1024 * 1024;

/// Others may do nothing with a file that holds a secret, and the group may not write it.
const TOO_OPEN: u32 = 0o027;

/// Whoever guesses a token may act for the operator; nobody types it from memory.
const SHORTEST_TOKEN: usize = 16;

/// Why a file that a setting names is of no use; continues a sentence that begins with its name.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It is missing, or we may not read it.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// We may not read it.
    #[error("cannot be read: Permission denied; {0}")]
    Denied(String),
    /// A directory, a device, a pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// Longer than 1 MB.
    #[error("is longer than 1 MB")]
    TooLong,
    /// Users who have no business with a secret may read or change it.
    #[error("can be read or changed by other users (its mode is {mode:03o})")]
    TooOpen {
        /// Its permission bits.
        mode: u32,
    },
    /// No password in it.
    #[error("is empty")]
    Empty,
    /// Nothing that could be told from a guess, or be sent in a field of HTTP.
    #[error(
        "holds no token: that is at least {SHORTEST_TOKEN} letters, digits and signs of ASCII, and no space"
    )]
    NoToken,
    /// A password that is not UTF-8 could be sent in no protocol.
    #[error("is not UTF-8")]
    NotUtf8,
    /// Not one certificate in it.
    #[error("holds no PEM certificate")]
    NoCertificate,
    /// A certificate that is broken off or not base64.
    #[error("holds a certificate that is broken off or not base64")]
    BadCertificate,
    /// No private key in it, or one that takes a passphrase.
    #[error("holds no PEM private key that is free of a passphrase")]
    NoKey,
    /// A private key that is broken off or not base64.
    #[error("holds a private key that is broken off or not base64")]
    BadKey,
    /// The key is another certificate's.
    #[error("is not the key of the certificate in {0}")]
    OtherKey(String),
    /// The TLS library cannot use the key.
    #[error("holds a private key that cannot be used: {0}")]
    UnusableKey(String),
    /// The TLS library cannot use the certificate.
    #[error("holds a certificate that cannot be used: {0}")]
    UnusableCertificate(String),
}

/// Returns the command that lets this process's user read a file that it may not read.
pub(super) fn leave_to_read(path: &Path) -> String {
    let (user, group) = (Uid::effective(), Gid::effective());
    let user = User::from_uid(user)
        .ok()
        .flatten()
        .map_or(user.to_string(), |user| user.name);
    let group = Group::from_gid(group)
        .ok()
        .flatten()
        .map_or(group.to_string(), |group| group.name);
    // What cannot even be looked at is behind a directory that is closed.
    let is_seen = |path: &&Path| path.symlink_metadata().is_ok();
    let seen = path.ancestors().find(is_seen).unwrap_or(path);
    let mode = seen.metadata().map_or(0, |found| found.mode() & 0o7777);
    let bit = if seen == path { 'r' } else { 'x' };
    let shown = seen.display();
    format!(
        "the mode of {shown} is {mode:04o}, and this is the user {user}; run as root: chgrp {group} {shown} && chmod \
         g+{bit} {shown}"
    )
}

/// The password in a file, without the newline at its end.
pub(super) fn password(path: &Path) -> Result<Secret, FileError> {
    let text = String::from_utf8(secret(path)?).map_err(|_| FileError::NotUtf8)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(FileError::Empty),
        password => Ok(Secret::new(password)),
    }
}

/// The token in a file, without the newline at its end.
pub(super) fn token(path: &Path) -> Result<Secret, FileError> {
    let token = password(path)?;
    let text = token.reveal();
    if text.len() < SHORTEST_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(FileError::NoToken);
    }
    Ok(token)
}

/// What a file holds.
pub(super) fn content(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path).map(|(bytes, _)| bytes)
}

/// What a file holds, as text.
pub(super) fn text(path: &Path) -> Result<String, FileError> {
    String::from_utf8(content(path)?).map_err(|_| FileError::NotUtf8)
}

/// What a file holds that is nobody else's business.
fn secret(path: &Path) -> Result<Vec<u8>, FileError> {
    let (bytes, metadata) = read(path)?;
    match metadata.mode() & 0o777 {
        mode if mode & TOO_OPEN != 0 => Err(FileError::TooOpen { mode }),
        _ => Ok(bytes),
    }
}

/// The certificates in a file; at least one.
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

/// The private key in a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&secret(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => FileError::NoKey,
        _ => FileError::BadKey,
    })
}

/// Makes sure that a server can show these certificates, the first of them its own, with this key.
/// `name` is what the file of the certificates is called.
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

/// Makes sure that a file of any length can be read.
pub(super) fn check_readable(path: &Path) -> Result<(), FileError> {
    open(path).map(|_| ())
}

fn open(path: &Path) -> Result<(File, Metadata), FileError> {
    let denied = |cause: io::Error| match cause.kind() {
        io::ErrorKind::PermissionDenied => FileError::Denied(leave_to_read(path)),
        _ => FileError::Unreadable(cause),
    };
    // Looked at before it is opened: opening a pipe would wait for somebody to write into it.
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
    fn a_password_keeps_everything_but_the_newline_at_its_end() {
        for (content, secret) in [("a b \n", "a b "), ("a\r\n", "a"), (" ä", " ä")] {
            let password = with(content.as_bytes(), 0o600).expect("a password");
            assert_eq!(password.reveal(), secret);
        }
    }

    #[test]
    fn only_its_owner_may_change_a_password_and_no_stranger_may_see_it() {
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
    fn what_is_no_password_is_not_taken_for_one() {
        assert!(matches!(with(b"\n", 0o600), Err(FileError::Empty)));
        assert!(matches!(with(b"\xff", 0o600), Err(FileError::NotUtf8)));
        let long = vec![b'x'; LARGEST as usize + 1];
        assert!(matches!(with(&long, 0o600), Err(FileError::TooLong)));
        let pipe = Path::new("/dev/null");
        assert!(matches!(password(pipe), Err(FileError::NotAFile)));
    }
}
