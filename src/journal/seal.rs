//! The seal: `X-Copyist-Seal: v=3; k=KIND; id=ITEM; t=TIME; to=MARK,MARK; h=MAC; b=MAC; f=MAC`.
//!
//! `h` is over kind, item id, time and recipients, `b` over these and the body, `f` over these and
//! the fields that an archive files a report by ([`digest`]). The body is compared as its reader
//! sees it, so that an MTA may encode it anew on the way. A report of ours passes the journal guard
//! and is not journaled again; what of it may have changed, and for how long it may come by again,
//! is for the pipeline to say.
//!
//! A version of a message (`k=v`) is read by people, who may send it anywhere. So its seal counts
//! only with its body, and its item must still wait for the recipients it comes for: the spool
//! knows that. And the recipients are marks that only we can make of their addresses, with some of
//! nobody among them: nobody learns here of whom else there is (Bcc).
//!
//! Format 2 had no time and covered no field. It counts for what was sealed before this version was
//! first started.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::Digest;

use super::digest::{self, BodyDigest};
use super::key::Key;
use super::parts::Mime;
use super::{ItemId, Kind};
use crate::mail::{Address, Message};

pub(super) const FIELD: &str = "X-Copyist-Seal";
/// How many seal fields of one message are looked at; ours is one.
const LOOKED_AT: usize = 8;

/// What a message's seal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// We wrote it, for these recipients.
    Ours(Seal),
    /// It has a seal that is none; why. It is anybody's message.
    Refused(Flaw),
    /// It has no seal. It is anybody's message.
    No,
}

/// A seal that we gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The item.
    pub id: ItemId,
    /// What it is of.
    pub sort: Sort,
    /// When it was given; `None` in format 2, which does not say.
    pub at: Option<SystemTime>,
    /// What of the message is as it was.
    pub state: State,
}

/// What of a sealed message is as it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Body and fields.
    Whole,
    /// The body; a field is another.
    Fields,
    /// The body is another.
    Body,
}

/// Why a seal is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It cannot be read: cut off, of another version, or made up.
    Malformed,
    /// We did not write it.
    Forged,
    /// We wrote it, for other recipients.
    Recipients,
    /// We wrote it, for another body.
    Body,
    /// It is of a version that its recipients have already.
    Spent,
    /// It is of a report that was delivered long ago, or of a format that is not given any more.
    Expired,
}

impl Flaw {
    /// The word used in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Flaw::Malformed => "malformed",
            Flaw::Forged => "forged",
            Flaw::Recipients => "recipients",
            Flaw::Body => "body",
            Flaw::Spent => "spent",
            Flaw::Expired => "expired",
        }
    }
}

/// What a seal is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A report, a copy or an NDR.
    Report,
    /// A version of a message.
    Version,
}

impl Sort {
    fn of(kind: Kind) -> Sort {
        match kind {
            Kind::Report | Kind::Copy | Kind::Ndr => Sort::Report,
            Kind::Version => Sort::Version,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Sort::Report => "r",
            Sort::Version => "v",
        }
    }
}

/// The value of the seal of an item with these recipients, this body and these fields.
pub(super) fn seal(
    key: &Key,
    (id, kind, at): (&ItemId, Kind, SystemTime),
    targets: &[Address],
    body: BodyDigest,
    fields: Digest,
) -> String {
    let sort = Sort::of(kind);
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut claim = Claim {
        sort,
        id: id.clone(),
        at: Some(since.as_secs()),
        to: marks(key, id, sort, targets),
        head: String::new(),
        body: String::new(),
        fields: String::new(),
    };
    claim.head = claim.mac(key, Part::Head, b"");
    claim.body = claim.mac(key, Part::Body, body.finish().as_ref());
    claim.fields = claim.mac(key, Part::Fields, fields.as_ref());
    let Claim {
        to,
        head,
        body,
        fields,
        ..
    } = claim;
    format!(
        "v=3; k={}; id={id}; t={};\r\n to={};\r\n h={head};\r\n b={body};\r\n f={fields}",
        sort.name(),
        since.as_secs(),
        to.join(",\r\n  ")
    )
}

/// Judges a message that came in for these recipients.
pub(super) fn judge(key: &Key, message: &Message, recipients: &[&Address]) -> Sealed {
    let mut digests = Digests::new(message);
    let mut best: Option<Seal> = None;
    let mut flaw = None;
    for field in message.fields_named(FIELD).take(LOOKED_AT) {
        let mut refuse = |found| flaw = flaw.or(Some(found));
        let Some(claim) = Claim::parse(field.value) else {
            refuse(Flaw::Malformed);
            continue;
        };
        // Before anything that costs: what we did not write is not worth a look at the body.
        if claim.mac(key, Part::Head, b"") != claim.head {
            refuse(Flaw::Forged);
            continue;
        }
        let is_named =
            |recipient: &&Address| claim.to.contains(&mark(key, &claim.id, recipient.key()));
        if recipients.is_empty() || !recipients.iter().all(is_named) {
            refuse(Flaw::Recipients);
            continue;
        }
        // What cannot be read is nobody's.
        let Ok(state) = digests.state(key, &claim) else {
            return Sealed::No;
        };
        if (claim.sort, state) == (Sort::Version, State::Body) {
            refuse(Flaw::Body);
        } else if best.as_ref().is_none_or(|best| state < best.state) {
            best = Some(claim.into_seal(state));
        }
    }
    match (best, flaw) {
        (Some(seal), _) => Sealed::Ours(seal),
        (None, Some(flaw)) => Sealed::Refused(flaw),
        (None, None) => Sealed::No,
    }
}

/// The digests of a message, each made when it is first asked for.
struct Digests<'m> {
    message: &'m Message,
    body: Option<Digest>,
    body_of_format_2: Option<Digest>,
}

impl Digests<'_> {
    fn new(message: &Message) -> Digests<'_> {
        Digests {
            message,
            body: None,
            body_of_format_2: None,
        }
    }

    /// What of the message is as a seal claims it.
    fn state(&mut self, key: &Key, claim: &Claim) -> io::Result<State> {
        let body = match claim.at {
            Some(_) => self.body()?,
            None => self.body_of_format_2()?,
        };
        if claim.mac(key, Part::Body, body.as_ref()) != claim.body {
            return Ok(State::Body);
        }
        if claim.at.is_none() {
            return Ok(State::Whole);
        }
        let fields = digest::of_fields(self.message.fields());
        Ok(
            match claim.mac(key, Part::Fields, fields.as_ref()) == claim.fields {
                true => State::Whole,
                false => State::Fields,
            },
        )
    }

    fn body(&mut self) -> io::Result<Digest> {
        if let Some(known) = self.body {
            return Ok(known);
        }
        let mut digest = BodyDigest::of(&Mime::of(self.message));
        digest.read(self.message.body())?;
        Ok(*self.body.insert(digest.finish()))
    }

    fn body_of_format_2(&mut self) -> io::Result<Digest> {
        if let Some(known) = self.body_of_format_2 {
            return Ok(known);
        }
        let found = digest::of_format_2(self.message.body())?;
        Ok(*self.body_of_format_2.insert(found))
    }
}

/// The item of a report whose seal this is, whatever it seals now: for a header that somebody
/// returns.
pub(super) fn item(key: &Key, value: &[u8]) -> Option<ItemId> {
    let claim = Claim::parse(value)?;
    let is_ours = claim.sort == Sort::Report && claim.mac(key, Part::Head, b"") == claim.head;
    is_ours.then_some(claim.id)
}

/// Whether a message has a seal of a report, for whomever.
pub(super) fn is_in(key: &Key, message: &Message) -> bool {
    let mut fields = message.fields_named(FIELD).take(LOOKED_AT);
    fields.any(|field| item(key, field.value).is_some())
}

/// What a MAC of a seal is over, beside what all are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body,
    Fields,
}

/// A seal as a message claims it.
struct Claim {
    sort: Sort,
    id: ItemId,
    /// Seconds since 1970; `None` in format 2.
    at: Option<u64>,
    to: Vec<String>,
    head: String,
    body: String,
    /// Empty in format 2.
    fields: String,
}

impl Claim {
    fn parse(value: &[u8]) -> Option<Claim> {
        let value: String = std::str::from_utf8(value)
            .ok()?
            .split_ascii_whitespace()
            .collect();
        let mut parts = value.split(';');
        let has_time = match parts.next()? {
            "v=2" => false,
            "v=3" => true,
            _ => return None,
        };
        let mut next = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let sort = match next("k")? {
            "r" => Sort::Report,
            "v" => Sort::Version,
            _ => return None,
        };
        let id = ItemId::parse(next("id")?)?;
        let at = match has_time {
            true => Some(next("t")?.parse().ok()?),
            false => None,
        };
        let to = next("to")?.split(',').map(str::to_owned).collect();
        let (head, body) = (next("h")?.to_owned(), next("b")?.to_owned());
        let fields = match has_time {
            true => next("f")?.to_owned(),
            false => String::new(),
        };
        parts.next().is_none().then_some(Claim {
            sort,
            id,
            at,
            to,
            head,
            body,
            fields,
        })
    }

    fn mac(&self, key: &Key, part: Part, digest: &[u8]) -> String {
        let purpose = match (self.at, part) {
            (None, Part::Head) => "seal head",
            (None, _) => "seal",
            (Some(_), Part::Head) => "seal 3 head",
            (Some(_), Part::Body) => "seal 3 body",
            (Some(_), Part::Fields) => "seal 3 fields",
        };
        let (to, at) = (self.to.join(","), self.at.unwrap_or_default().to_be_bytes());
        let mut what = vec![
            self.sort.name().as_bytes(),
            self.id.as_str().as_bytes(),
            to.as_bytes(),
        ];
        if self.at.is_some() {
            what.push(&at);
        }
        if part != Part::Head {
            what.push(digest);
        }
        STANDARD_NO_PAD.encode(key.mac(purpose, &what))
    }

    fn into_seal(self, state: State) -> Seal {
        Seal {
            id: self.id,
            sort: self.sort,
            at: self
                .at
                .and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at))),
            state,
        }
    }
}

/// The recipients as they stand in a seal, in an order that says nothing.
fn marks(key: &Key, id: &ItemId, sort: Sort, targets: &[Address]) -> Vec<String> {
    let mut marks: Vec<String> = targets.iter().map(|to| mark(key, id, to.key())).collect();
    if sort == Sort::Version {
        // No address is empty or a number.
        let rest = targets.len().next_multiple_of(PADDED) - targets.len();
        marks.extend((0..rest).map(|n| mark(key, id, &n.to_string())));
    }
    marks.sort_unstable();
    marks.dedup();
    marks
}

/// Bytes of a mark: nobody can try enough addresses to find another with the same.
const MARK: usize = 12;

/// The number of marks of a version is a multiple of this.
const PADDED: usize = 10;

fn mark(key: &Key, id: &ItemId, address: &str) -> String {
    let parts = [id.as_str().as_bytes(), address.as_bytes()];
    STANDARD_NO_PAD.encode(&key.mac("seal to", &parts).as_ref()[..MARK])
}
