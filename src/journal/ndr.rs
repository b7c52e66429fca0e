//! Non-delivery reports (RFC 3464) about reports of ours, with the whole report attached.

use std::fmt::Write;

use super::fields::field;
use super::report::shortened;
use super::{Collected, Item, Kind, Refusal};
use crate::mail::{Address, BodyKind, Enhanced, rfc3339};
use crate::policy::Trouble;

/// What an NDR is about: the text for people, and the fields for programs.
pub(super) struct Account {
    /// What its subject begins with.
    pub(super) title: &'static str,
    pub(super) text: String,
    pub(super) status: String,
}

const JOURNAL_REPORT: &str = "Undeliverable journal report";

/// A relay said no.
pub(super) fn refused(failed: &Item, refusals: &[Refusal], hostname: &str) -> Account {
    let mut text = match failed.kind {
        Kind::Version => format!(
            "This is Copyist at {hostname}.\r\n\r\n\
             Your message could not be delivered to the addresses below. It is attached.\r\n\r\n"
        ),
        kind => format!(
            "This is Copyist at {hostname}.\r\n\r\n\
             A journal {} could not be delivered, and will not be tried again for the\r\n\
             addresses below. It is attached whole, with the original message in it.\r\n\r\n",
            kind.name()
        ),
    };
    let mut status = per_message(hostname);
    let of_the_sender = failed.dsn.sender.iter().find_map(|param| {
        let (name, value) = param.split_once('=')?;
        name.eq_ignore_ascii_case("ENVID").then_some(value)
    });
    match (failed.kind, of_the_sender) {
        (Kind::Version, None) => {}
        (_, Some(id)) => field(&mut status, "Original-Envelope-Id", &ascii(id)),
        (_, None) => field(&mut status, "Original-Envelope-Id", &failed.envelope_id),
    }
    for refusal in refusals {
        let _ = write!(
            text,
            "  {}\r\n    {} said: {}\r\n",
            refusal.address,
            refusal.relay,
            printable(&refusal.reply.to_string())
        );
        per_recipient(
            &mut status,
            &refusal.address.to_string(),
            refusal.reply.enhanced,
        );
        field(
            &mut status,
            "Remote-MTA",
            &format!("dns; {}", refusal.relay),
        );
        field(
            &mut status,
            "Diagnostic-Code",
            &format!("smtp; {}", ascii(&refusal.reply.to_string())),
        );
    }
    if failed.kind == Kind::Version {
        let title = "Undeliverable";
        return Account {
            title,
            text,
            status,
        };
    }
    text.push_str("\r\nIt was made because of:\r\n\r\n");
    for reason in &failed.reasons {
        let _ = write!(text, "  {}\r\n", printable(reason));
    }
    let _ = write!(
        text,
        "\r\nWhat to do: see why the mailbox refuses mail (does it exist? is it full? is the\r\n\
         size limit too low?), then forward the attached report to it.\r\n"
    );
    Account {
        title: JOURNAL_REPORT,
        text,
        status,
    }
}

/// An attribute names nobody.
pub(super) fn malformed(trouble: &Trouble, hostname: &str) -> Account {
    let text = format!(
        "This is Copyist at {hostname}.\r\n\r\n\
         A message had to be journaled, but the journal target is unusable.\r\n\
         The report is attached whole, with the original message in it; the message itself\r\n\
         went on to its recipients.\r\n\r\n\
         \x20 object:    {}\r\n  attribute: {}\r\n  value:     {}\r\n  problem:   {}\r\n\r\n\
         What to do: correct it, for example to journal@example.com. Until then\r\n\
         there is a report like this one for each message. (Set directory.fallback_journal\r\n\
         to have them journaled there instead.)\r\n",
        printable(trouble.dn.as_deref().unwrap_or("the configuration")),
        match trouble.dn {
            Some(_) => format!(
                "{} (of {}.journal_attribute)",
                trouble.attribute, trouble.direction
            ),
            None => trouble.attribute.clone(),
        },
        // Shortened as it is written: what is escaped becomes longer.
        printable(&format!("{:?}", trouble.value)),
        printable(&trouble.error.to_string()),
    );
    let mut status = per_message(hostname);
    // 5.1.3: bad destination mailbox address syntax.
    per_recipient(&mut status, &ascii(&trouble.value), Enhanced(5, 1, 3));
    Account {
        title: JOURNAL_REPORT,
        text,
        status,
    }
}

/// Refusals that had no NDR of their own, because there were too many.
pub(super) fn digest(listed: &[Collected], count: u64, hostname: &str) -> Account {
    let mut text = format!(
        "This is Copyist at {hostname}.\r\n\r\n\
         {count} journal reports or copies could not be delivered, and are not tried again by\r\n\
         themselves. So many were refused within an hour that they have no non-delivery report\r\n\
         of their own. None of them is lost: all are kept until somebody decides.\r\n\r\n\
         What to do: see why they were refused, mend it, then have them sent again:\r\n\r\n\
         \x20 copyist queue list --dead\r\n  copyist queue retry ID ... (or --all)\r\n\r\n"
    );
    let mut status = per_message(hostname);
    for one in listed {
        let _ = write!(
            text,
            "  {} {} {}\r\n    {}\r\n    {}\r\n",
            rfc3339(one.at),
            one.item,
            one.target,
            printable(&one.said),
            printable(&one.subject)
        );
    }
    let more = count.saturating_sub(listed.len() as u64);
    if more > 0 {
        let _ = write!(text, "  and {more} more\r\n");
    }
    let mut targets: Vec<&Address> = listed.iter().map(|one| &one.target).collect();
    targets.sort_unstable();
    targets.dedup();
    for target in targets {
        // 5.0.0: undefined status (RFC 3463 section 3.1); each of them may have been refused in another way.
        per_recipient(&mut status, &target.to_string(), Enhanced(5, 0, 0));
    }
    Account {
        title: "Undeliverable, collected",
        text,
        status,
    }
}

fn per_message(hostname: &str) -> String {
    let mut out = String::new();
    field(&mut out, "Reporting-MTA", &format!("dns; {hostname}"));
    out
}

fn per_recipient(out: &mut String, recipient: &str, status: Enhanced) {
    out.push_str("\r\n");
    field(
        out,
        "Final-Recipient",
        &format!("rfc822; {}", ascii(recipient)),
    );
    field(out, "Action", "failed");
    field(out, "Status", &status.to_string());
}

/// Printable ASCII only: these fields have no encoding for anything else (RFC 3464 section 2.1).
fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .take(900)
        .collect()
}

/// Text for people, on one line that no transfer has to fold (RFC 5322 section 2.1.1).
fn printable(text: &str) -> String {
    shortened(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// The body of an NDR around an attached message.
pub(super) fn body(account: &Account, attached: BodyKind, boundary: &str) -> (String, String) {
    let before = format!(
        "{}Content-Type: message/rfc822\r\nContent-Transfer-Encoding: {}\r\n\r\n",
        told(account, boundary),
        attached.encoding()
    );
    (before, format!("\r\n--{boundary}--\r\n"))
}

/// The body of an NDR without a message; RFC 6522 section 3 asks for none.
pub(super) fn digest_body(account: &Account, boundary: &str) -> String {
    let told = told(account, boundary);
    format!("{}--\r\n", told.trim_end())
}

/// The parts for people and for programs, and the boundary behind them.
fn told(account: &Account, boundary: &str) -> String {
    let (charset, encoding) = match BodyKind::of(account.text.as_bytes()) {
        BodyKind::SevenBit => ("us-ascii", "7bit"),
        _ => ("utf-8", "8bit"),
    };
    format!(
        "--{boundary}\r\nContent-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n\
         {}\r\n--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\n{}\r\n--{boundary}\r\n",
        account.text, account.status,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Target;
    use crate::mail::Address;
    use crate::policy::Direction;

    #[test]
    fn no_line_about_a_wrong_value_is_longer_than_mail_allows() {
        let value = "\u{1}".repeat(5000);
        let trouble = Trouble {
            direction: Direction::Inbound,
            ndr: Address::parse("ndr@corp.example").expect("a valid address"),
            dn: Some(value.clone()),
            attribute: "journal".into(),
            error: Target::parse(&value).expect_err("no target"),
            value,
        };
        let account = malformed(&trouble, "mx.corp.example");
        for line in account.text.lines().chain(account.status.lines()) {
            assert!(line.len() <= 998, "{} octets: {line}", line.len());
        }
    }
}
