//! `copyist queue`: what is owed, beside the running service or without one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::args::QueueCommand;
use super::{Failure, load, print_json, print_line};
use crate::journal::ItemId;
use crate::mail::rfc3339;
use crate::spool::{Filter, Listed, Shown, Spool};

/// Items retried in one transaction: short enough to leave room for the service's commits.
const BATCH: usize = 500;

pub(super) async fn queue(config: &Path, command: QueueCommand) -> Result<(), Failure> {
    let settings = load(config)?;
    let spool = Spool::inspect(&settings.spool).map_err(Failure::failed)?;
    match command {
        QueueCommand::List { dead, limit, json } => list(&spool, dead, limit, json).await,
        QueueCommand::Show { id, json } => show(&spool, &parse(&id)?, json).await,
        QueueCommand::Retry { all: true, .. } => retry_all(&spool).await,
        QueueCommand::Retry { ids, .. } => retry(&spool, &ids).await,
        QueueCommand::Export { id, output } => export(&spool, &parse(&id)?, output).await,
        QueueCommand::Drop { ids, yes } => drop_items(&spool, &ids, yes).await,
    }
}
