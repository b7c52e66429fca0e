//! Messages derived from their number: sizes, items and delivery results.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use copyist::journal::{Item, ItemId, Kind};
use copyist::mail::{Address, BodyKind, Content};
use copyist::policy::Direction;
use copyist::spool::{CommitError, DeliveryOutcome, DeliveryResult, Settings, Spool, Submission};

/// The service's own settings: originals above 128 KiB are files.
pub fn settings(directory: &Path) -> Settings {
    Settings::new(directory)
}

/// Parts of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One original in the row, one item.
    Small,
    /// One original that is a file, one item.
    Large,
    /// An original that is a file, and a version of it in the row with two items.
    Both,
}

/// Delivery result of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// None: it waits.
    Stay,
    /// Delivered to both targets, so it is removed.
    Deliver,
    /// Delivered to one target.
    Halve,
    /// Refused by both targets: it is removed, and an NDR is queued.
    Refuse,
}

/// The position within each million selects the messages of a run: see [`Orders`](super::Orders).
pub const LARGE_ONLY: usize = 500_000;

pub fn shape(n: usize) -> Shape {
    match n % 8 {
        _ if n % 1_000_000 >= LARGE_ONLY => Shape::Large,
        0 | 4 => Shape::Large,
        6 => Shape::Both,
        _ => Shape::Small,
    }
}

pub fn act_on(n: usize) -> Act {
    match n % 5 {
        0 | 3 => Act::Deliver,
        1 => Act::Halve,
        2 => Act::Refuse,
        _ => Act::Stay,
    }
}

pub fn address(name: &str) -> Address {
    Address::parse(&format!("{name}@archive.test")).expect("a valid address")
}

/// The ID of item `k` of message `n`; 4 and up are its NDRs.
pub fn id(n: usize, k: usize) -> ItemId {
    let number = n * 8 + k;
    let text: String = (0..16)
        .rev()
        .map(|digit| char::from(b'a' + (number >> (digit * 4) & 15) as u8))
        .collect();
    ItemId::parse(&text).expect("an id")
}

fn original(n: usize, part: usize, size: usize) -> Bytes {
    let line = format!("message {n} part {part}\r\n").into_bytes();
    let size = size + n % 7;
    let mut bytes = line.repeat(size / line.len() + 1);
    bytes.truncate(size);
    Bytes::from(bytes)
}

/// The items of a message, each with its original.
pub fn items(n: usize) -> Vec<(Item, Bytes)> {
    let large = || original(n, 0, 128 * 1024 + 1 + n % 16 * 1024);
    let small = || original(n, 1, 2_000 + n % 4 * 3_000);
    match shape(n) {
        Shape::Small => vec![(item(n, 0), small())],
        Shape::Large => vec![(item(n, 0), large())],
        Shape::Both => vec![
            (item(n, 0), large()),
            (item(n, 1), small()),
            (item(n, 2), small()),
        ],
    }
}

/// A message as it is committed. Every second body file is written while the message is received.
async fn submissions(spool: &Spool, n: usize) -> io::Result<Vec<Submission>> {
    let mut submissions: Vec<(Bytes, Submission)> = Vec::new();
    for (item, original) in items(n) {
        match submissions.last_mut() {
            Some((last, submission)) if *last == original => submission.items.push(item),
            _ => {
                let content = match original.len() > 128 * 1024 && n % 8 < 4 {
                    true => receive(spool, &original).await?,
                    false => Content::from(original.clone()),
                };
                let items = vec![item];
                submissions.push((
                    original,
                    Submission {
                        original: content,
                        items,
                    },
                ));
            }
        }
    }
    Ok(submissions
        .into_iter()
        .map(|(_, submission)| submission)
        .collect())
}

async fn receive(spool: &Spool, original: &Bytes) -> io::Result<Content> {
    let mut body = spool.new_body().await?;
    for piece in original.chunks(65_536) {
        body.append(piece)?;
    }
    Content::stored(body.finish())
}

pub fn item(n: usize, k: usize) -> Item {
    Item {
        id: id(n, k),
        kind: Kind::Report,
        direction: Direction::Inbound,
        sender: Some(address("sender")),
        targets: vec![address("a"), address("b")],
        ndr: Some(address("ndr")),
        message_id: format!("<{n}.{k}@c.test>"),
        envelope_id: format!("{n}.{k}"),
        subject: format!("message {n}"),
        reasons: vec!["a reason".into(), "another".into()],
        prefix: Bytes::from(format!("before {n}.{k}\r\n")),
        suffix: Bytes::from(format!("after {n}.{k}\r\n")),
        body: BodyKind::SevenBit,
        smtputf8: false,
        dsn: Default::default(),
    }
}

fn ndr(n: usize, k: usize) -> Item {
    Item {
        kind: Kind::Ndr,
        sender: None,
        targets: vec![address("ndr")],
        ndr: None,
        ..item(n, 4 + k)
    }
}

pub async fn commit(spool: &Spool, n: usize) -> Result<(), CommitError> {
    match submissions(spool, n).await {
        Ok(submissions) => spool.commit(&n.to_string(), UNIX_EPOCH, submissions).await,
        // The message cannot be received, let alone committed.
        Err(cause) => Err(CommitError::Refused(cause.to_string().into())),
    }
}

/// Records the delivery result of a message, item by item.
pub async fn act(spool: &Spool, n: usize) -> Result<(), CommitError> {
    let both = |outcome: &dyn Fn() -> DeliveryOutcome| {
        vec![(address("a"), outcome()), (address("b"), outcome())]
    };
    for k in 0..items(n).len() {
        let (outcomes, ndr) = match act_on(n) {
            Act::Stay => return Ok(()),
            Act::Deliver => (both(&|| DeliveryOutcome::Delivered), None),
            Act::Halve => (vec![(address("a"), DeliveryOutcome::Delivered)], None),
            Act::Refuse => (
                both(&|| DeliveryOutcome::Refused("550 no".into())),
                Some(ndr(n, k)),
            ),
        };
        let result = DeliveryResult {
            outcomes,
            next_attempt: UNIX_EPOCH,
            ndr,
            ndr_limit: None,
            relay_reached: true,
        };
        spool.record(&id(n, k), result, UNIX_EPOCH).await?;
    }
    Ok(())
}
