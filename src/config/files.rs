//! Files that settings name: passwords and certificates. Read once, while the settings are loaded.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::secret::Secret;

/// The largest file that is read; a certificate bundle of all the world is a quarter of that.
const LARGEST: u64 = 1024 * 1024;

/// Others may do nothing with a password file, and the group may not write it.
const TOO_OPEN: u32 = 0o027;

/// Why a file that a setting names is of no use; continues a sentence that begins with its name.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It is missing, or we may not read it.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A directory, a device, a pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// Longer than 1 MB.
    #[error("is longer than 1 MB")]
    TooLong,
    /// Users who have no business with a password may read or change it.
    #[error("can be read or changed by other users (its mode is {mode:03o})")]
    TooOpen {
        /// Its permission bits.
        mode: u32,
    },
    /// No password in it.
    #[error("is empty")]
    Empty,
    /// A password that is not UTF-8 could be sent in no protocol.
    #[error("is not UTF-8")]
    NotUtf8,
    /// Not one certificate in it.
    #[error("holds no PEM certificate")]
    NoCertificate,
    /// A certificate that is broken off or not base64.
    #[error("holds a certificate that is broken off or not base64")]
    BadCertificate,
}

/// The password in a file, without the newline at its end.
pub(super) fn password(path: &Path) -> Result<Secret, FileError> {
    let (bytes, metadata) = read(path)?;
    let mode = metadata.mode() & 0o777;
    if mode & TOO_OPEN != 0 {
        return Err(FileError::TooOpen { mode });
    }
    let text = String::from_utf8(bytes).map_err(|_| FileError::NotUtf8)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(FileError::Empty),
        password => Ok(Secret::new(password)),
    }
}

/// What a file holds.
pub(super) fn content(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path).map(|(bytes, _)| bytes)
}

/// What a file holds, as text.
pub(super) fn text(path: &Path) -> Result<String, FileError> {
    String::from_utf8(content(path)?).map_err(|_| FileError::NotUtf8)
}

/// Makes sure that a file has certificates in it.
pub(super) fn check_certificates(path: &Path) -> Result<(), FileError> {
    let (bytes, _) = read(path)?;
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        certificate.map_err(|_| FileError::BadCertificate)?;
        found += 1;
    }
    if found == 0 {
        return Err(FileError::NoCertificate);
    }
    Ok(())
}

/// Makes sure that a file of any length can be read.
pub(super) fn check_readable(path: &Path) -> Result<(), FileError> {
    open(path).map(|_| ())
}

fn open(path: &Path) -> Result<(File, Metadata), FileError> {
    // Looked at before it is opened: opening a pipe would wait for somebody to write into it.
    if !path.metadata()?.is_file() {
        return Err(FileError::NotAFile);
    }
    let file = File::open(path)?;
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
