//! What both imports do: take the site from the command line, write the file, say what a person
//! must know of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::args::Import;
use super::{Failure, print_text, shown};
use crate::migrate::{Proposal, Site};

/// What the command line says about the site.
pub(super) fn site(import: &Import) -> Result<Site, Failure> {
    let site = Site {
        domains: import.domain.clone(),
        directory_urls: import.directory_url.clone(),
        base: import.base.clone(),
        relay: import.relay.clone(),
    };
    site.check().map_err(Failure::wrong)?;
    Ok(site)
}

/// Writes the configuration, and the remarks to standard error: standard output may be the file.
pub(super) fn give(proposal: &Proposal, output: Option<&Path>) -> Result<(), Failure> {
    match output {
        Some(path) => create(path, &proposal.config)?,
        None => print_text(proposal.config.trim_end())?,
    }
    for remark in &proposal.remarks {
        eprintln!("copyist: {}", shown(&remark.to_string()));
    }
    Ok(())
}

/// Writes a file that must not be there yet: somebody may have worked on it.
pub(super) fn create(path: &Path, text: &str) -> Result<(), Failure> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::wrong(format!(
            "{} exists and is not overwritten; name another file, or remove it",
            path.display()
        )),
        _ => Failure::failed(format!("{}: {error}", path.display())),
    })
}
