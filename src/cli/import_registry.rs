//! `copyist import-registry`: the settings of the Internet Mail Service Extension as a
//! configuration.

use std::fs::File;
use std::io::Read;

use super::Failure;
use super::args::ImportRegistry;
use super::import::{give, site};
use crate::migrate;

/// The most that is read. A whole HKEY_LOCAL_MACHINE has some 200 MB, and is exported by nobody for
/// this.
const LARGEST: u64 = 64 << 20;

pub(super) fn import_registry(what: &ImportRegistry) -> Result<(), Failure> {
    let site = site(&what.import)?;
    let path = &what.file;
    let unread = |error| Failure::wrong(format!("{}: cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unread)?;
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unread)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::wrong(format!(
            r"{}: is longer than {} MiB; export the key …\MSExchangeIMC\Parameters\Extension alone",
            path.display(),
            LARGEST >> 20
        )));
    }
    let proposal = migrate::registry(path, &bytes, &site).map_err(Failure::wrong)?;
    give(&proposal, what.import.output.as_deref())
}
