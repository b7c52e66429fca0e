//! The seal: `X-Copyist-Seal: v=2; k=KIND; id=ITEM; to=MARK,MARK; h=MAC; b=MAC`.
//!
//! `h` is over kind, item id and recipients, `b` over these and the body. The whole seal of a report lets it pass
//! the journal guard and keeps it from being journaled again. `h` alone says that we wrote a report to these
//! addresses and that somebody changed it on the way (an MTA that converts 8bit, a footer): from a
//! sender that is ours such a message is not journaled again, since journaling it would make a longer report
//! that is changed again, without end. It opens nothing to strangers.
//!
//! A version of a message (`k=v`) is read by people, who may send it anywhere. So its seal counts only whole, and its
//! item must still wait for the recipients it comes for: the spool knows that. And the recipients are marks that only
//! we can make of their addresses, with some of nobody among them: nobody learns here of whom else there is (Bcc).

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest;

use super::key::Key;
use super::{ItemId, Kind};
use crate::mail::{Address, Message, Pieces};

pub(super) const FIELD: &str = "X-Copyist-Seal";
/// How many seal fields of one message are looked at; ours is one.
const LOOKED_AT: usize = 8;

/// What a message's seal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// We wrote it, for these recipients, and nobody changed it.
    Whole(ItemId),
    /// We wrote it, a version of a message, for these recipients, and nobody changed it. Whether it is on its way is for
    /// the spool to say.
    Version(ItemId),
    /// We wrote a report with this name for these recipients; the body is another now.
    Altered(ItemId),
    /// It has a seal that is none; why. It is anybody's message.
    Refused(Flaw),
    /// It has no seal. It is anybody's message.
    No,
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
        }
    }
}

/// What a seal is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
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

/// SHA-256 over body segments in a form that transfer does not change: every line break counts as CRLF,
/// and line breaks at the end do not count.
#[derive(Clone)]
pub(super) struct BodyDigest {
    context: digest::Context,
    /// Line breaks seen and not yet counted.
    breaks: usize,
    after_cr: bool,
}

impl BodyDigest {
    pub(super) fn new() -> BodyDigest {
        BodyDigest {
            context: digest::Context::new(&digest::SHA256),
            breaks: 0,
            after_cr: false,
        }
    }

    pub(super) fn update(&mut self, mut segment: &[u8]) {
        if self.after_cr {
            self.after_cr = false;
            if let Some(rest) = segment.strip_prefix(b"\n") {
                segment = rest;
            }
        }
        while !segment.is_empty() {
            let end = memchr::memchr2(b'\r', b'\n', segment).unwrap_or(segment.len());
            if end > 0 {
                for _ in 0..std::mem::take(&mut self.breaks) {
                    self.context.update(b"\r\n");
                }
                self.context.update(&segment[..end]);
            }
            segment = match &segment[end..] {
                [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => {
                    self.breaks += 1;
                    rest
                }
                [b'\r', rest @ ..] => {
                    self.breaks += 1;
                    self.after_cr = rest.is_empty();
                    rest
                }
                rest => rest,
            };
        }
    }

    /// What these pieces hold.
    pub(super) fn read(&mut self, pieces: Pieces) -> io::Result<()> {
        for piece in pieces {
            self.update(&piece?);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> digest::Digest {
        self.context.finish()
    }
}

/// The value of the seal of an item of this kind with these recipients and this body.
pub(super) fn seal(
    key: &Key,
    id: &ItemId,
    kind: Kind,
    targets: &[Address],
    body: BodyDigest,
) -> String {
    let sort = Sort::of(kind);
    let list = marks(key, id, sort, targets);
    let head = head_mac(key, id, sort, &list);
    let whole = whole_mac(key, id, sort, &list, body);
    format!(
        "v=2; k={}; id={id};\r\n to={};\r\n h={head};\r\n b={whole}",
        sort.name(),
        list.join(",\r\n  ")
    )
}

/// Judges a message that came in for these recipients.
pub(super) fn judge(key: &Key, message: &Message, recipients: &[&Address]) -> Sealed {
    let mut body = None;
    let mut verdict = Sealed::No;
    for field in message.fields_named(FIELD).take(LOOKED_AT) {
        let mut refuse = |flaw| {
            if verdict == Sealed::No {
                verdict = Sealed::Refused(flaw);
            }
        };
        let Some(claim) = Claim::parse(field.value) else {
            refuse(Flaw::Malformed);
            continue;
        };
        // Before anything that costs: what we did not write is not worth a look at the body.
        if head_mac(key, &claim.id, claim.sort, &claim.to) != claim.head {
            refuse(Flaw::Forged);
            continue;
        }
        let is_named =
            |recipient: &&Address| claim.to.contains(&mark(key, &claim.id, recipient.key()));
        let meant = recipients.iter().all(is_named);
        if recipients.is_empty() || !meant {
            refuse(Flaw::Recipients);
            continue;
        }
        let body = body.get_or_insert_with(|| {
            let mut digest = BodyDigest::new();
            digest.read(message.body()).map(|()| digest)
        });
        // What cannot be read is nobody's.
        let Ok(body) = body else {
            return Sealed::No;
        };
        let whole = whole_mac(key, &claim.id, claim.sort, &claim.to, body.clone());
        match (claim.sort, whole == claim.whole) {
            (Sort::Report, true) => return Sealed::Whole(claim.id),
            (Sort::Version, true) => return Sealed::Version(claim.id),
            (Sort::Report, false) => verdict = Sealed::Altered(claim.id),
            (Sort::Version, false) => refuse(Flaw::Body),
        }
    }
    verdict
}

/// The item of a report whose seal this is, whatever it seals now: for a header that somebody returns.
pub(super) fn item(key: &Key, value: &[u8]) -> Option<ItemId> {
    let claim = Claim::parse(value)?;
    let is_ours =
        claim.sort == Sort::Report && head_mac(key, &claim.id, claim.sort, &claim.to) == claim.head;
    is_ours.then_some(claim.id)
}

/// Whether a message has a seal of a report, for whomever.
pub(super) fn is_in(key: &Key, message: &Message) -> bool {
    let mut fields = message.fields_named(FIELD).take(LOOKED_AT);
    fields.any(|field| item(key, field.value).is_some())
}

/// A seal as a message claims it.
struct Claim {
    sort: Sort,
    id: ItemId,
    to: Vec<String>,
    head: String,
    whole: String,
}

impl Claim {
    fn parse(value: &[u8]) -> Option<Claim> {
        let value: String = std::str::from_utf8(value)
            .ok()?
            .split_ascii_whitespace()
            .collect();
        let mut parts = value.split(';');
        if parts.next()? != "v=2" {
            return None;
        }
        let mut next = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let sort = match next("k")? {
            "r" => Sort::Report,
            "v" => Sort::Version,
            _ => return None,
        };
        let id = ItemId::parse(next("id")?)?;
        let to = next("to")?.split(',').map(str::to_owned).collect();
        let (head, whole) = (next("h")?.to_owned(), next("b")?.to_owned());
        parts.next().is_none().then_some(Claim {
            sort,
            id,
            to,
            head,
            whole,
        })
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

/// Octets of a mark: nobody can try enough addresses to find another with the same.
const MARK: usize = 12;

/// The number of marks of a version is a multiple of this.
const PADDED: usize = 10;

fn mark(key: &Key, id: &ItemId, address: &str) -> String {
    let parts = [id.as_str().as_bytes(), address.as_bytes()];
    STANDARD_NO_PAD.encode(&key.mac("seal to", &parts).as_ref()[..MARK])
}

fn head_mac(key: &Key, id: &ItemId, sort: Sort, list: &[String]) -> String {
    let to = list.join(",");
    let what = [
        sort.name().as_bytes(),
        id.as_str().as_bytes(),
        to.as_bytes(),
    ];
    STANDARD_NO_PAD.encode(key.mac("seal head", &what))
}

fn whole_mac(key: &Key, id: &ItemId, sort: Sort, list: &[String], body: BodyDigest) -> String {
    let (to, body) = (list.join(","), body.finish());
    let what = [
        sort.name().as_bytes(),
        id.as_str().as_bytes(),
        to.as_bytes(),
        body.as_ref(),
    ];
    STANDARD_NO_PAD.encode(key.mac("seal", &what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(segments: &[&str]) -> Vec<u8> {
        let mut digest = BodyDigest::new();
        for segment in segments {
            digest.update(segment.as_bytes());
        }
        digest.finish().as_ref().to_vec()
    }

    #[test]
    fn the_digest_sees_through_what_transfer_does() {
        let plain = digest(&["one\r\n\r\ntwo\r\n"]);
        for same in [
            &["one\n\ntwo"][..],
            &["one\r", "\n\r", "\ntwo\r\n\r\n"],
            &["one\r\rtwo\n\n\r"],
        ] {
            assert_eq!(digest(same), plain, "{same:?}");
        }
        for other in [
            &["one\r\ntwo"][..],
            &["one\r\n\r\ntwo "],
            &["\r\none\r\n\r\ntwo"],
        ] {
            assert_ne!(digest(other), plain, "{other:?}");
        }
    }
}
