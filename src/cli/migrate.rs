//! Shared by both translations: options for the site, writing the file, printing the remarks.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::args::SiteArgs;
use super::{Failure, print_text, shown};
use crate::migrate::{Proposal, Site};

/// Returns the site from the command line.
pub(super) fn site(import: &SiteArgs) -> Result<Site, Failure> {
    let site = Site {
        domains: import.domain.clone(),
        directory_urls: import.directory_url.clone(),
        base: import.base.clone(),
        relay: import.relay.clone(),
    };
    site.check().map_err(Failure::invalid)?;
    Ok(site)
}

/// Writes the configuration, and the remarks to standard error because standard output may be the
/// file.
pub(super) fn write(proposal: &Proposal, output: Option<&Path>) -> Result<(), Failure> {
    match output {
        Some(path) => create(path, &proposal.config)?,
        None => print_text(proposal.config.trim_end())?,
    }
    for remark in &proposal.remarks {
        eprintln!("copyist: {}", shown(&remark.to_string()));
    }
    Ok(())
}

/// Creates a file. It must not exist, so that no edited file is overwritten.
pub(super) fn create(path: &Path, text: &str) -> Result<(), Failure> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::invalid(format!(
            "{} exists and is not overwritten; give another file, or remove it",
            path.display()
        )),
        _ => Failure::failed(format!("{}: {error}", path.display())),
    })
}
