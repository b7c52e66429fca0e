//! Writes items: what a plan or a refusal asks for, complete and sealed.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;

use super::digest::{self, BodyDigest};
use super::fields::{field, unstructured};
use super::parts::Mime;
use super::report::{self, Outer};
use super::seal::{self, Sealed};
use super::token::Audience;
use super::{
    Bounce, Collected, Dsn, Item, ItemId, Key, Kind, Refusal, Settings, Undelivered, ndr, notice,
    token,
};
use crate::mail::{
    Address, BodyFormat, BodyKind, Content, Envelope, Fields, Message, Recipient, Summary,
};
use crate::policy::{self, Direction, Format, InvalidTarget, Plan};

/// Writes reports, copies and NDRs, and knows its own again.
#[derive(Clone)]
pub struct Composer {
    settings: Settings,
    key: Key,
}

/// The composer in use; a reload replaces it. Clones share it.
#[derive(Clone)]
pub struct ComposerHandle(Arc<ArcSwap<Composer>>);

impl ComposerHandle {
    /// Creates a handle to a composer.
    pub fn new(composer: Composer) -> ComposerHandle {
        ComposerHandle(Arc::new(ArcSwap::from_pointee(composer)))
    }

    /// Returns the current composer.
    pub fn load(&self) -> Guard<Arc<Composer>> {
        self.0.load()
    }

    /// Replaces the composer.
    pub fn store(&self, composer: Composer) {
        self.0.store(Arc::new(composer));
    }
}

/// Bytes of the header after which no further reason is added.
const REASONS: usize = 16 * 1024;

/// Why something could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// Without random numbers, names and boundaries could be foreseen.
    #[error("the system gives no random numbers")]
    Random,
    /// The message was stored, and cannot be read again.
    #[error("the message cannot be read again: {0}")]
    Unreadable(Arc<str>),
}

impl From<io::Error> for ComposeError {
    fn from(cause: io::Error) -> ComposeError {
        ComposeError::Unreadable(cause.to_string().into())
    }
}

/// A message that reports are written about.
struct Subject<'a> {
    envelope: &'a Envelope,
    message: &'a Message,
    summary: Summary,
    format: BodyFormat,
    from_us: bool,
    now: SystemTime,
}

/// The parts of an item that differ by kind; the rest follows from them.
struct Draft<'a> {
    id: ItemId,
    kind: Kind,
    direction: Direction,
    sender: Option<&'a Address>,
    targets: Vec<Address>,
    ndr: Option<&'a Address>,
    subject: &'a str,
    reasons: Vec<String>,
    audience: Audience,
}

impl<'a> Draft<'a> {
    /// One of the copies of a plan.
    fn about(
        kind: Kind,
        subject: &'a Subject<'_>,
        copy: &'a policy::JournalCopy,
    ) -> Result<Draft<'a>, ComposeError> {
        Ok(Draft {
            id: token::new_id()?,
            kind,
            direction: copy.direction,
            sender: Some(&copy.ndr),
            targets: copy
                .targets
                .iter()
                .map(|(target, _)| target.clone())
                .collect(),
            ndr: Some(&copy.ndr),
            subject: &subject.summary.subject,
            reasons: reasons(copy),
            audience: Audience::Journal,
        })
    }
}

impl Composer {
    /// A composer with these settings and this key.
    pub fn new(settings: Settings, key: Key) -> Composer {
        Composer { settings, key }
    }

    /// Everything that the plan for this message owes.
    pub fn compose(
        &self,
        envelope: &Envelope,
        message: &Message,
        plan: &Plan,
        now: SystemTime,
    ) -> Result<Vec<Item>, ComposeError> {
        if plan.is_empty() {
            return Ok(Vec::new());
        }
        let subject = Subject {
            envelope,
            message,
            summary: message.summary(),
            format: BodyFormat::of(message.content())?,
            from_us: plan.from_us,
            now,
        };
        let copies = plan.copies.iter().map(|copy| match copy.format {
            Format::Report => self.report(&subject, copy),
            Format::Copy => self.copy(&subject, copy),
        });
        copies
            .chain(
                plan.invalid_targets
                    .iter()
                    .map(|invalid| self.invalid(&subject, invalid)),
            )
            .collect()
    }

    /// A version of a message for some of its recipients, from its own sender, with nothing of ours
    /// but the seal that lets it pass this filter again. In pieces that every relay takes.
    pub fn version(
        &self,
        envelope: &Envelope,
        message: &Message,
        recipients: &[Recipient],
        direction: Direction,
        now: SystemTime,
    ) -> Result<Vec<Item>, ComposeError> {
        // A client may name somebody twice; the first time counts, as with the MTA.
        let mut once: Vec<&Recipient> = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            if !once.iter().any(|known| known.address == recipient.address) {
                once.push(recipient);
            }
        }
        // A sender who wants no news of failures gets none.
        let (told, not_told): (Vec<&Recipient>, Vec<&Recipient>) = once
            .into_iter()
            .partition(|recipient| wants_failures(recipient));
        let groups = [(told, envelope.sender.as_ref()), (not_told, None)];
        let summary = message.summary();
        let BodyFormat { kind, .. } = BodyFormat::of(message.content())?;
        let mut items = Vec::new();
        for (group, ndr) in groups {
            for some in group.chunks(policy::MAX_TARGETS) {
                let draft = Draft {
                    id: token::new_id()?,
                    kind: Kind::Version,
                    direction,
                    sender: envelope.sender.as_ref(),
                    targets: some.iter().map(|r| r.address.clone()).collect(),
                    ndr,
                    subject: &summary.subject,
                    reasons: vec![format!("the {direction} version of a message with several")],
                    audience: Audience::People,
                };
                let mut digest = BodyDigest::of(&Mime::of(message));
                digest.read(message.body())?;
                let body = Body {
                    before: String::new(),
                    after: String::new(),
                    digest,
                    header: message.header(),
                    kind,
                };
                let message_id = Some(summary.message_id.clone());
                let mut item = self.finish(draft, String::new(), body, message_id, now);
                item.dsn = dsn(envelope, some);
                item.smtputf8 |= envelope.is_smtputf8();
                items.push(item);
            }
        }
        Ok(items)
    }

    /// The NDR for those recipients of `failed` that the relay refused for good. `original` is the
    /// message that `failed` carries.
    pub fn ndr(
        &self,
        failed: &Item,
        ndr_address: &Address,
        original: &Content,
        refusals: &[Refusal],
        now: SystemTime,
    ) -> Result<Item, ComposeError> {
        let account = ndr::refused(failed, refusals, &self.settings.hostname);
        // What stands before a version is our seal, which is nobody's but the relay's to see.
        let prefix: &[u8] = match failed.kind {
            Kind::Version => b"",
            _ => &failed.prefix,
        };
        let attached = Attached {
            prefix,
            original,
            suffix: &failed.suffix,
            kind: failed.body,
        };
        let draft = Draft {
            id: token::new_id()?,
            kind: Kind::Ndr,
            direction: failed.direction,
            sender: None,
            targets: vec![ndr_address.clone()],
            ndr: None,
            subject: &failed.subject,
            reasons: refusals
                .iter()
                .map(|refusal| {
                    format!(
                        "{ndr_address}: {} refused {}: {}",
                        refusal.relay, refusal.address, refusal.reply
                    )
                })
                .collect(),
            audience: match failed.kind {
                // The sender of a message hears of it.
                Kind::Version => Audience::People,
                Kind::Report | Kind::Copy | Kind::Ndr => Audience::Journal,
            },
        };
        self.wrap(draft, &account, &attached, now)
    }

    /// The digest NDR about `count` targets, the first of them `listed`.
    pub fn digest(
        &self,
        ndr_address: &Address,
        what: Undelivered,
        listed: &[Collected],
        count: u64,
        now: SystemTime,
    ) -> Result<Item, ComposeError> {
        let account = ndr::digest(what, listed, count, &self.settings.hostname);
        let boundary = boundary()?;
        let before = ndr::digest_body(&account, &boundary);
        let kind = BodyKind::of(account.text.as_bytes());
        let subject = format!("{count} journal reports and copies");
        let draft = Draft {
            id: token::new_id()?,
            kind: Kind::Ndr,
            direction: Direction::Inbound,
            sender: None,
            targets: vec![ndr_address.clone()],
            ndr: None,
            subject: &subject,
            reasons: vec![match what {
                Undelivered::Dead => format!(
                    "{ndr_address}: a digest of {count} reports and copies beyond those that were sent or had an NDR each"
                ),
                Undelivered::Waiting => {
                    format!(
                        "{ndr_address}: a digest of {count} reports and copies that wait for the relay"
                    )
                }
            }],
            audience: Audience::Journal,
        };
        let mut header = String::new();
        let title = format!("{}: {}", account.title, subject);
        self.outer(&draft, &title, now).write(&mut header, false);
        let mut digest = BodyDigest::of(&multipart_report(&mut header, &boundary, kind));
        digest.update(before.as_bytes());
        let body = Body {
            before,
            after: String::new(),
            digest,
            header: b"",
            kind,
        };
        Ok(self.finish(draft, header, body, None, now))
    }

    /// Whether a message is one of ours, for these recipients.
    pub fn judge<'a>(
        &self,
        message: &Message,
        recipients: impl IntoIterator<Item = &'a Address>,
    ) -> Sealed {
        let recipients: Vec<&Address> = recipients.into_iter().collect();
        seal::judge(&self.key, message, &recipients)
    }

    /// The item of ours that a message is a notice about, and what it says of it. `from_program`:
    /// it has no reverse path.
    pub fn notice(&self, message: &Message, from_program: bool) -> Option<(ItemId, Bounce)> {
        let is_automatic = from_program || notice::is_automatic(message);
        is_automatic
            .then(|| notice::read(&self.key, message))
            .flatten()
    }

    /// Whether a message may come from something of ours: it has a token or a seal of ours
    /// somewhere, whatever it is, or is written to the author of reports.
    pub fn may_come_from_ours<'a>(
        &self,
        message: &Message,
        mut recipients: impl Iterator<Item = &'a Address>,
    ) -> bool {
        token::find(&self.key, message.content().beginning()).is_some()
            || seal::is_in(&self.key, message)
            || recipients.any(|to| *to == self.settings.report_from)
    }

    fn report(
        &self,
        subject: &Subject<'_>,
        copy: &policy::JournalCopy,
    ) -> Result<Item, ComposeError> {
        let draft = Draft::about(Kind::Report, subject, copy)?;
        self.around(subject, draft, &copy.expanded())
    }

    /// A report: outer header, envelope part, the original.
    fn around(
        &self,
        subject: &Subject<'_>,
        draft: Draft<'_>,
        expanded: &[(&Address, &Address)],
    ) -> Result<Item, ComposeError> {
        let (envelope, from_us) = (subject.envelope, subject.from_us);
        let envelope_part = report::envelope_part(
            envelope,
            (subject.message, &subject.summary),
            from_us,
            expanded,
        );
        let boundary = boundary()?;
        let original = subject.format.kind;
        let (before, after) = report::body(&envelope_part, original, &boundary);
        let kind = original.max(BodyKind::of(envelope_part.as_bytes()));
        let mut header = String::new();
        self.outer(&draft, draft.subject, subject.now)
            .write(&mut header, true);
        if subject.envelope.sender.is_none() {
            field(&mut header, "X-Copyist-Sender", "<>");
        }
        if subject.format.bare_line_breaks {
            field(
                &mut header,
                "X-Copyist-Note",
                "bare CR or LF of the original is CRLF in this transfer",
            );
        }
        let multipart = format!("multipart/mixed; boundary=\"{boundary}\"");
        let mut digest = BodyDigest::of(&content_type(&mut header, &multipart, kind));
        digest.update(before.as_bytes());
        digest.read(subject.message.content().chunks(0))?;
        digest.update(after.as_bytes());
        let body = Body {
            before,
            after,
            digest,
            header: b"",
            kind,
        };
        Ok(self.finish(draft, header, body, None, subject.now))
    }

    /// A plain copy: our fields in front of the original and nothing else.
    fn copy(
        &self,
        subject: &Subject<'_>,
        copy: &policy::JournalCopy,
    ) -> Result<Item, ComposeError> {
        let draft = Draft::about(Kind::Copy, subject, copy)?;
        let mut header = String::new();
        if subject
            .message
            .fields_named("Auto-Submitted")
            .next()
            .is_none()
        {
            field(&mut header, "Auto-Submitted", "auto-generated");
        }
        let mut digest = BodyDigest::of(&Mime::of(subject.message));
        digest.read(subject.message.body())?;
        let message_id = subject.summary.message_id.clone();
        let body = Body {
            before: String::new(),
            after: String::new(),
            digest,
            header: subject.message.header(),
            kind: subject.format.kind,
        };
        Ok(self.finish(draft, header, body, Some(message_id), subject.now))
    }

    /// An NDR for an attribute value that names nobody, with the report attached that it stands
    /// for.
    fn invalid(
        &self,
        subject: &Subject<'_>,
        invalid: &InvalidTarget,
    ) -> Result<Item, ComposeError> {
        let owed = Draft {
            id: token::new_id()?,
            kind: Kind::Report,
            direction: invalid.direction,
            sender: Some(&invalid.ndr),
            targets: vec![invalid.ndr.clone()],
            ndr: None,
            subject: &subject.summary.subject,
            reasons: vec![invalid.to_string()],
            audience: Audience::Journal,
        };
        let owed = self.around(subject, owed, &[])?;
        let account = ndr::malformed(invalid, &self.settings.hostname);
        let attached = Attached {
            prefix: &owed.prefix,
            original: subject.message.content(),
            suffix: &owed.suffix,
            kind: owed.body,
        };
        let draft = Draft {
            id: token::new_id()?,
            kind: Kind::Ndr,
            direction: invalid.direction,
            sender: None,
            targets: vec![invalid.ndr.clone()],
            ndr: None,
            subject: &subject.summary.subject,
            reasons: vec![format!("{}: {invalid}", invalid.ndr)],
            audience: Audience::Journal,
        };
        self.wrap(draft, &account, &attached, subject.now)
    }

    /// An NDR around something of ours.
    fn wrap(
        &self,
        draft: Draft<'_>,
        account: &ndr::Account,
        attached: &Attached<'_>,
        now: SystemTime,
    ) -> Result<Item, ComposeError> {
        let boundary = boundary()?;
        // Addresses of its header may need UTF-8.
        let is_global = !attached.has_ascii_header()?;
        let of_prefix = BodyKind::of(attached.prefix);
        let attached_kind = attached.kind.max(of_prefix);
        let (mut before, after) = ndr::body(account, attached_kind, is_global, &boundary);
        let kind = attached_kind.max(BodyKind::of(account.text.as_bytes()));
        let mut header = String::new();
        let subject = format!("{}: {}", account.title, draft.subject);
        self.outer(&draft, &subject, now).write(&mut header, false);
        let mut digest = BodyDigest::of(&multipart_report(&mut header, &boundary, kind));
        // Prefixes are text that we wrote ourselves.
        before.push_str(&String::from_utf8_lossy(attached.prefix));
        digest.update(before.as_bytes());
        digest.read(attached.original.chunks(0))?;
        let after = format!("{}{after}", String::from_utf8_lossy(attached.suffix));
        digest.update(after.as_bytes());
        let body = Body {
            before,
            after,
            digest,
            header: b"",
            kind,
        };
        Ok(self.finish(draft, header, body, None, now))
    }

    fn outer<'a>(&'a self, draft: &'a Draft<'_>, subject: &'a str, date: SystemTime) -> Outer<'a> {
        let message_id = format!(
            "<{}@{}>",
            token::token(&self.key, &draft.id, draft.audience),
            self.settings.hostname
        );
        Outer {
            from: &self.settings.report_from,
            to: &draft.targets,
            subject,
            date,
            message_id,
        }
    }

    /// Adds what everything of ours carries, and makes the item.
    fn finish(
        &self,
        draft: Draft<'_>,
        mut header: String,
        body: Body<'_>,
        message_id: Option<String>,
        now: SystemTime,
    ) -> Item {
        let Body {
            before,
            after,
            digest,
            header: rest,
            kind,
        } = body;
        // A version is read by people who are not to know why it is one.
        if draft.kind != Kind::Version {
            add_reasons(&mut header, &draft.reasons);
        }
        let fields = Fields::new(header.as_bytes()).chain(Fields::new(rest));
        let fields = digest::of_fields(fields);
        let of = (&draft.id, draft.kind, now);
        let seal = seal::seal(&self.key, of, &draft.targets, digest, fields);
        field(&mut header, seal::FIELD, &seal);
        // An original may begin with a folded line, which must not become one of the seal.
        field(&mut header, "X-Copyist-Item", draft.id.as_str());
        if !matches!(draft.kind, Kind::Copy | Kind::Version) {
            header.push_str("\r\n");
        }
        header.push_str(&before);
        let token = token::token(&self.key, &draft.id, draft.audience);
        let smtputf8 = draft
            .targets
            .iter()
            .chain(draft.sender)
            .chain([&self.settings.report_from])
            .any(Address::needs_smtputf8);
        Item {
            kind: draft.kind,
            direction: draft.direction,
            sender: draft.sender.cloned(),
            ndr: draft.ndr.cloned(),
            message_id: message_id
                .unwrap_or_else(|| format!("<{token}@{}>", self.settings.hostname)),
            envelope_id: token,
            dsn: Dsn::default(),
            subject: draft.subject.to_owned(),
            reasons: draft.reasons,
            prefix: Bytes::from(header),
            suffix: Bytes::from(after),
            body: kind,
            smtputf8,
            id: draft.id,
            targets: draft.targets,
        }
    }
}

/// What an item's body is, but for the original in the middle of it.
struct Body<'a> {
    before: String,
    after: String,
    /// Over the whole body, the original included.
    digest: BodyDigest,
    /// The header that ours goes on in, if it does.
    header: &'a [u8],
    kind: BodyKind,
}

/// A message of ours inside an NDR.
struct Attached<'a> {
    prefix: &'a [u8],
    original: &'a Content,
    suffix: &'a [u8],
    kind: BodyKind,
}

impl Attached<'_> {
    /// Whether its header is ASCII: ours, and that of the original where it goes on in it.
    fn has_ascii_header(&self) -> io::Result<bool> {
        let end = |text: &[u8]| memchr::memmem::find(text, b"\r\n\r\n");
        let mut seen = self.prefix.to_vec();
        let mut pieces = self.original.chunks(0);
        loop {
            if let Some(end) = end(&seen) {
                return Ok(seen[..end].is_ascii());
            }
            match pieces.next() {
                Some(piece) if seen.is_ascii() => {
                    // The empty line may begin in one piece and end in the next.
                    seen.drain(..seen.len().saturating_sub(3));
                    seen.extend_from_slice(&piece?);
                }
                _ => return Ok(seen.is_ascii()),
            }
        }
    }
}

/// Why there is a report, as far as it fits: DNs are long, and Postfix takes what is beyond
/// `header_size_limit` (102,400 bytes) for the body, the seal and the fields of the original
/// included. The item keeps all of them.
fn add_reasons(header: &mut String, reasons: &[String]) {
    let end = header.len() + REASONS;
    for (n, reason) in reasons.iter().enumerate() {
        if header.len() > end {
            let rest = format!("and {} more", reasons.len() - n);
            unstructured(header, "X-Copyist-Reason", &rest);
            return;
        }
        unstructured(header, "X-Copyist-Reason", reason);
    }
}

/// The DSN parameters of a transaction, as far as they concern these recipients.
fn dsn(envelope: &Envelope, recipients: &[&Recipient]) -> Dsn {
    let named = |params: &[String], names: &[&str]| -> Vec<String> {
        let is_one = |param: &&String| {
            let name = param.split('=').next().unwrap_or_default();
            names.iter().any(|known| name.eq_ignore_ascii_case(known))
        };
        params.iter().filter(is_one).cloned().collect()
    };
    let of = |r: &&Recipient| (r.address.clone(), named(&r.params, &["NOTIFY", "ORCPT"]));
    Dsn {
        sender: named(&envelope.sender_params, &["RET", "ENVID"]),
        recipients: recipients
            .iter()
            .map(of)
            .filter(|(_, p)| !p.is_empty())
            .collect(),
    }
}

/// Whether the sender wants to hear of a failed delivery: unless NOTIFY says otherwise (RFC 3461
/// section 4.1).
fn wants_failures(recipient: &Recipient) -> bool {
    let notify = recipient.params.iter().find_map(|param| {
        let (name, value) = param.split_once('=')?;
        name.eq_ignore_ascii_case("NOTIFY").then_some(value)
    });
    notify.is_none_or(|value| {
        value
            .split(',')
            .any(|word| word.eq_ignore_ascii_case("FAILURE"))
    })
}

fn reasons(copy: &policy::JournalCopy) -> Vec<String> {
    copy.targets
        .iter()
        .flat_map(|(target, reasons)| {
            reasons
                .iter()
                .map(move |reason| format!("{target}: {reason}"))
        })
        .collect()
}

/// Adds the fields that say how the body is read; gives what they say.
fn content_type(header: &mut String, value: &str, kind: BodyKind) -> Mime {
    field(header, "Content-Type", value);
    field(header, "Content-Transfer-Encoding", kind.encoding());
    Mime::of_type(value)
}

fn multipart_report(header: &mut String, boundary: &str, kind: BodyKind) -> Mime {
    let multipart =
        format!("multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"");
    content_type(header, &multipart, kind)
}

/// A boundary that occurs nowhere in what it bounds: 80 random bits, drawn when that was all
/// written already.
fn boundary() -> Result<String, ComposeError> {
    Ok(format!("=_copyist_{}", token::random_text()?))
}
