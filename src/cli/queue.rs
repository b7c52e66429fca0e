//! `copyist queue`: inspects and manages the queue, with or without a running service.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use indicatif::{ProgressBar, ProgressStyle};
use nix::unistd::{Uid, User};
use serde_json::json;

use super::args::QueueCommand;
use super::{Failure, load, print_json, print_line};
use crate::journal::ItemId;
use crate::mail::{format_size, rfc3339};
use crate::spool::{
    Action, BounceRecord, ItemDetails, ListFilter, Operator, OperatorRecord, QueueEntry,
    RetryCursor, Spool,
};

/// Items retried in one transaction, few enough not to delay the service's commits.
const BATCH: usize = 500;

pub(super) async fn queue(config: &Path, command: QueueCommand) -> Result<(), Failure> {
    let settings = load(config)?;
    let spool = Spool::inspect(&settings.spool).map_err(Failure::failed)?;
    match command {
        QueueCommand::List { dead, limit, json } => list(&spool, dead, limit, json).await,
        QueueCommand::Show { id, json } => show(&spool, &parse(&id)?, json).await,
        QueueCommand::Bounces { limit, json } => list_bounces(&spool, limit, json).await,
        QueueCommand::Audit { id, limit, json } => audit(&spool, id, limit, json).await,
        QueueCommand::Retry { all: true, .. } => retry_all(&spool).await,
        QueueCommand::Retry { ids, .. } => act_on(&spool, Action::Retry, &ids).await,
        QueueCommand::Hold { ids } => act_on(&spool, Action::Hold, &ids).await,
        QueueCommand::Release { ids } => act_on(&spool, Action::Release, &ids).await,
        QueueCommand::Export { id, output } => export(&spool, &parse(&id)?, output).await,
        QueueCommand::Drop { yes: false, .. } => Err(Failure::invalid(
            "this deletes items permanently; export them first, then add --yes",
        )),
        QueueCommand::Drop { ids, .. } => act_on(&spool, Action::Drop, &ids).await,
    }
}

fn parse(text: &str) -> Result<ItemId, Failure> {
    ItemId::parse(text).ok_or_else(|| {
        Failure::invalid(format!(
            "invalid item ID {text:?}: item IDs have 16 letters and digits; see copyist queue list"
        ))
    })
}

async fn list(spool: &Spool, dead: bool, limit: usize, as_json: bool) -> Result<(), Failure> {
    let items = spool
        .list(ListFilter {
            dead_only: dead,
            limit,
        })
        .await
        .map_err(Failure::failed)?;
    let depth = spool.depth().await.map_err(Failure::failed)?;
    if as_json {
        let items: Vec<_> = items.iter().map(item_json).collect();
        return print_json(&json!({ "items": items, "total": depth.items, "dead": depth.dead }));
    }
    for item in &items {
        print_line(&line(item))?;
        for target in &item.targets {
            let reply = target
                .last_reply
                .as_deref()
                .map(|reply| format!(" ({reply})"))
                .unwrap_or_default();
            print_line(&format!("    {} {}{reply}", target.state, target.address))?;
        }
    }
    let more = depth.items.saturating_sub(items.len() as u64);
    let more = if more > 0 && !dead {
        format!(" ({more} not shown)")
    } else {
        String::new()
    };
    print_line(&format!(
        "{} items queued{more}; {} dead letters, {} on hold",
        depth.items, depth.dead, depth.on_hold
    ))
}

fn line(item: &QueueEntry) -> String {
    let next = match (&item.set_aside, item.next_attempt) {
        (Some(why), _) => format!("set aside: {why}"),
        (None, None) if item.on_hold => "on hold".into(),
        (None, Some(at)) if at <= SystemTime::now() => "due".into(),
        (None, Some(at)) => format!("next attempt {}", rfc3339(at)),
        (None, None) if item.is_reserved => "reserved until the next hop replies".into(),
        (None, None) => "no automatic retry".into(),
    };
    format!(
        "{} {} {} of {} ({}) from {}, {} attempts, {next}: {}",
        item.id,
        item.direction.name(),
        item.kind.name(),
        if item.queue_id.is_empty() {
            "a message"
        } else {
            &item.queue_id
        },
        format_size(item.size),
        rfc3339(item.received),
        item.attempts,
        item.subject,
    )
}

fn item_json(item: &QueueEntry) -> serde_json::Value {
    let targets: Vec<_> = item
        .targets
        .iter()
        .map(|target| json!({ "address": target.address, "state": target.state.name(), "last_reply": target.last_reply }))
        .collect();
    json!({
        "id": item.id.as_str(),
        "kind": item.kind.name(),
        "direction": item.direction.name(),
        "queue_id": item.queue_id,
        "received": rfc3339(item.received),
        "size": item.size,
        "subject": item.subject,
        "attempts": item.attempts,
        "next_attempt": item.next_attempt.map(rfc3339),
        "set_aside": item.set_aside,
        "held": item.is_reserved,
        "on_hold": item.on_hold,
        "targets": targets,
    })
}

async fn show(spool: &Spool, id: &ItemId, as_json: bool) -> Result<(), Failure> {
    let bounces = spool.bounces(Some(id), usize::MAX).await;
    let bounces = bounces.map_err(Failure::failed)?;
    let records = spool.operator_records(Some(id), usize::MAX).await;
    let records = records.map_err(Failure::failed)?;
    let Some(shown) = spool.show(id).await.map_err(Failure::failed)? else {
        if bounces.is_empty() && records.is_empty() {
            return Err(unknown(id));
        }
        return show_gone(id, &bounces, &records, as_json);
    };
    let ItemDetails {
        listed,
        sender,
        ndr,
        message_id,
        reasons,
    } = shown;
    if as_json {
        let mut value = item_json(&listed);
        value["sender"] = json!(sender);
        value["ndr"] = json!(ndr);
        value["message_id"] = json!(message_id);
        value["reasons"] = json!(reasons);
        value["bounces"] = bounces.iter().map(bounce_json).collect();
        value["operators"] = records.iter().map(record_json).collect();
        return print_json(&value);
    }
    print_line(&line(&listed))?;
    let sender = sender.map_or("<> (null reverse path)".into(), |sender| sender.to_string());
    print_line(&format!("  Message-ID:      {message_id}"))?;
    print_line(&format!("  envelope sender: {sender}"))?;
    if let Some(ndr) = ndr {
        print_line(&format!("  NDR goes to:     {ndr}"))?;
    }
    for target in &listed.targets {
        print_line(&format!("  {} {}", target.state, target.address))?;
        if let Some(reply) = &target.last_reply {
            print_line(&format!("    last reply: {reply}"))?;
        }
    }
    print_line("  reasons:")?;
    reasons
        .iter()
        .try_for_each(|reason| print_line(&format!("    {reason}")))?;
    print_records(&records)?;
    print_bounces(&bounces)
}

/// Shows the history of an item that was delivered or dropped.
fn show_gone(
    id: &ItemId,
    bounces: &[BounceRecord],
    records: &[OperatorRecord],
    as_json: bool,
) -> Result<(), Failure> {
    let is_dropped = records.iter().any(|record| record.action == Action::Drop);
    if as_json {
        let bounces: Vec<_> = bounces.iter().map(bounce_json).collect();
        let records: Vec<_> = records.iter().map(record_json).collect();
        return print_json(&json!({
            "id": id.as_str(), "delivered": !is_dropped, "bounces": bounces, "operators": records
        }));
    }
    print_line(&match is_dropped {
        true => format!("{id} was dropped by an operator"),
        false => format!("{id} was delivered to the relay"),
    })?;
    print_records(records)?;
    print_bounces(bounces)
}

async fn list_bounces(spool: &Spool, limit: usize, as_json: bool) -> Result<(), Failure> {
    let bounces = spool.bounces(None, limit).await.map_err(Failure::failed)?;
    if as_json {
        let bounces: Vec<_> = bounces.iter().map(bounce_json).collect();
        return print_json(&json!({ "bounces": bounces }));
    }
    print_bounces(&bounces)?;
    print_line(&format!("{} bounces in the last 30 days", bounces.len()))
}

fn print_bounces(bounces: &[BounceRecord]) -> Result<(), Failure> {
    bounces
        .iter()
        .try_for_each(|BounceRecord { item, at, bounce }| {
            let or = |text: &str, other: &str| match text {
                "" => other.to_owned(),
                text => text.to_owned(),
            };
            let action = or(&bounce.action, "returned");
            let status = or(&bounce.status, "without status");
            let by = or(&bounce.reporter, "unknown");
            let at = rfc3339(*at);
            print_line(&format!(
                "{item} {action} {status} {at} by {by}: {}",
                bounce.said
            ))
        })
}

fn bounce_json(BounceRecord { item, at, bounce }: &BounceRecord) -> serde_json::Value {
    json!({
        "item": item.as_str(),
        "at": rfc3339(*at),
        "reporter": bounce.reporter,
        "action": bounce.action,
        "status": bounce.status,
        "said": bounce.said,
    })
}

fn unknown(id: &ItemId) -> Failure {
    Failure::failed(format!("no item {id}; it may have been delivered"))
}

/// Returns the user who runs this command; after su or sudo, also the login user.
fn operator() -> Operator {
    let name = |uid: Uid| match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    };
    let user = name(Uid::current());
    // See pam_loginuid(8); -1 if nobody logged in.
    let login = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    let login = login.trim().parse().ok().filter(|&uid| uid != u32::MAX);
    let user = match login.map(Uid::from_raw) {
        Some(login) if login != Uid::current() => format!("{} as {user}", name(login)),
        _ => user,
    };
    Operator {
        user,
        uid: Some(Uid::current().as_raw()),
        address: None,
    }
}

/// Performs an action on each item and stops at the first failure.
async fn act_on(spool: &Spool, action: Action, ids: &[String]) -> Result<(), Failure> {
    let operator = operator();
    for id in ids {
        let id = parse(id)?;
        let done = spool
            .operate(&operator, action, &id, SystemTime::now())
            .await;
        let is_done = done.map_err(Failure::failed)?;
        let state = match action {
            _ if !is_done && action == Action::Release => {
                return Err(Failure::failed(format!("{id} is not on hold")));
            }
            _ if !is_done => return Err(unknown(&id)),
            Action::Retry => "is due now",
            Action::Hold => "is on hold",
            Action::Release => "is released",
            Action::Drop => "is dropped",
            Action::Export => "is exported",
        };
        print_line(&format!("{id} {state}"))?;
    }
    Ok(())
}

/// Prints operator actions.
async fn audit(
    spool: &Spool,
    id: Option<String>,
    limit: usize,
    as_json: bool,
) -> Result<(), Failure> {
    let id = id.map(|id| parse(&id)).transpose()?;
    let records = spool.operator_records(id.as_ref(), limit).await;
    let records = records.map_err(Failure::failed)?;
    if as_json {
        let records: Vec<_> = records.iter().map(record_json).collect();
        return print_json(&json!({ "records": records }));
    }
    print_records(&records)
}

fn print_records(records: &[OperatorRecord]) -> Result<(), Failure> {
    records.iter().try_for_each(|record| {
        let at = rfc3339(record.at);
        print_line(&format!(
            "{at} {} by {}",
            record.describe_action(),
            record.describe_operator()
        ))
    })
}

fn record_json(record: &OperatorRecord) -> serde_json::Value {
    json!({
        "at": rfc3339(record.at),
        "user": record.operator.user,
        "uid": record.operator.uid,
        "address": record.operator.address,
        "action": record.action.name(),
        "item": record.item.as_ref().map(ItemId::as_str),
        "items": record.items,
        "queue_id": record.queue_id,
    })
}

/// Retries all items, in batches so that the service's commits are not delayed, with progress.
async fn retry_all(spool: &Spool) -> Result<(), Failure> {
    let depth = spool.depth().await.map_err(Failure::failed)?;
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} items are due ({per_sec}, {eta} left)");
    let bar = ProgressBar::new(depth.items).with_style(style.map_err(Failure::failed)?);
    let operator = operator();
    let (mut done, mut cursor) = (0, RetryCursor::default());
    loop {
        let (batch, next) = spool
            .retry_after(&operator, cursor, BATCH, SystemTime::now())
            .await
            .map_err(Failure::failed)?;
        if batch == 0 {
            break;
        }
        done += batch;
        cursor = next;
        bar.set_position(done);
    }
    bar.finish_and_clear();
    print_line(&format!("{done} items are due now"))
}

/// Creates a file for a whole message, readable only by the user.
fn private_file(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

async fn export(spool: &Spool, id: &ItemId, output: Option<PathBuf>) -> Result<(), Failure> {
    let item = spool.load(id).await.map_err(Failure::failed)?;
    let now = SystemTime::now();
    if let Err(cause) = spool.operate(&operator(), Action::Export, id, now).await {
        // Not fatal: a read-only spool is a reason to export.
        eprintln!("copyist: cannot record the export of {id}: {cause}");
    }
    let parts = || {
        std::iter::once(Ok(item.item.prefix.clone()))
            .chain(item.original.chunks(0))
            .chain(std::iter::once(Ok(item.item.suffix.clone())))
    };
    let written = match &output {
        Some(path) => private_file(path).and_then(|mut file| {
            parts()
                .try_for_each(|part| file.write_all(&part?))
                .and_then(|()| file.sync_all())
        }),
        None => parts().try_for_each(|part| std::io::stdout().write_all(&part?)),
    };
    let target = output.map_or("standard output".into(), |path| path.display().to_string());
    written.map_err(|cause| Failure::failed(format!("{target}: {cause}")))
}
