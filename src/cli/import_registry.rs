//! `copyist import-registry`: translates the settings of the Internet Mail Service Extension to a
//! configuration.

use std::fs::File;
use std::io::Read;

use super::Failure;
use super::args::ImportRegistryArgs;
use super::migrate::{site, write};
use crate::migrate;

/// The largest file accepted. A whole HKEY_LOCAL_MACHINE would have some 200 MB.
const LARGEST: u64 = 64 << 20;

pub(super) fn import_registry(args: &ImportRegistryArgs) -> Result<(), Failure> {
    let site = site(&args.site)?;
    let path = &args.file;
    let unread = |error| Failure::invalid(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unread)?;
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unread)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::invalid(format!(
            r"{} is larger than {} MiB; export only the key …\MSExchangeIMC\Parameters\Extension",
            path.display(),
            LARGEST >> 20
        )));
    }
    let proposal = migrate::registry(path, &bytes, &site).map_err(Failure::invalid)?;
    write(&proposal, args.site.output.as_deref())
}
