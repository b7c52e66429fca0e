//! Non-delivery reports (RFC 3464) about reports of ours, with the whole report attached.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use super::fields::field;
use super::report::shortened;
use super::{Collected, Item, Kind, Refusal, Undelivered};
use crate::mail::{Address, BodyKind, Enhanced, rfc3339};
use crate::policy::InvalidTarget;

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
            &recipient(&refusal.address),
            "failed",
            refusal.reply.enhanced,
        );
        field(
            &mut status,
            "Remote-MTA",
            &format!("dns; {}", mta_name(&refusal.relay)),
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
pub(super) fn malformed(invalid: &InvalidTarget, hostname: &str) -> Account {
    let text = format!(
        "This is Copyist at {hostname}.\r\n\r\n\
         A message had to be journaled, but the journal target is unusable.\r\n\
         The report is attached whole, with the original message in it; the message itself\r\n\
         went on to its recipients.\r\n\r\n\
         \x20 object:    {}\r\n  attribute: {}\r\n  value:     {}\r\n  problem:   {}\r\n\r\n\
         What to do: correct it, for example to journal@example.com. Until then\r\n\
         there is a report like this one for each message. (Set directory.fallback_journal\r\n\
         to have them journaled there instead.)\r\n",
        printable(invalid.dn.as_deref().unwrap_or("the configuration")),
        match invalid.dn {
            Some(_) => format!(
                "{} (of {}.journal_attribute)",
                invalid.attribute, invalid.direction
            ),
            None => invalid.attribute.clone(),
        },
        // Shortened as it is written: what is escaped becomes longer.
        printable(&format!("{:?}", invalid.value)),
        printable(&invalid.error.to_string()),
    );
    let mut status = per_message(hostname);
    // 5.1.3: bad destination mailbox address syntax.
    let value = format!("x-unknown; {}", ascii(&invalid.value));
    per_recipient(&mut status, &value, "failed", Enhanced(5, 1, 3));
    Account {
        title: JOURNAL_REPORT,
        text,
        status,
    }
}

/// Refusals that had no NDR of their own and reports that were not sent, because there were too
/// many; or what waits.
pub(super) fn digest(
    what: Undelivered,
    listed: &[Collected],
    count: u64,
    hostname: &str,
) -> Account {
    let mut text = match what {
        Undelivered::Dead => dead(count, hostname),
        Undelivered::Waiting => waiting(count, hostname),
    };
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
    let (title, action, enhanced) = match what {
        // 5.0.0: undefined status (RFC 3463 section 3.1); each of them may have been refused in
        // another way.
        Undelivered::Dead => ("Undeliverable, collected", "failed", Enhanced(5, 0, 0)),
        // 4.7.1: delivery not authorized (RFC 3463 section 3.8), for now.
        Undelivered::Waiting => ("Waiting for the relay", "delayed", Enhanced(4, 7, 1)),
    };
    for target in targets {
        per_recipient(&mut status, &recipient(target), action, enhanced);
    }
    Account {
        title,
        text,
        status,
    }
}

fn waiting(count: u64, hostname: &str) -> String {
    format!(
        "This is Copyist at {hostname}.\r\n\r\n\
         The relay refuses all journal reports and copies, whoever they are for: it does not\r\n\
         relay for this machine. {count} wait; none of them is lost, and all are tried again by\r\n\
         themselves. You are told once a day while this lasts.\r\n\r\n\
         What to do: add this machine to the relay's trusted networks, or set relay.username.\r\n\r\n"
    )
}

fn dead(count: u64, hostname: &str) -> String {
    format!(
        "This is Copyist at {hostname}.\r\n\r\n\
         {count} journal reports or copies are not delivered, and are not tried again by\r\n\
         themselves: they were refused, or not sent because they look like a mail loop. There\r\n\
         were so many within an hour that they have no non-delivery report of their own. None\r\n\
         of them is lost: all are kept until somebody decides.\r\n\r\n\
         What to do: see the reason below each, mend it, then have them sent again:\r\n\r\n\
         \x20 copyist queue list --dead\r\n  copyist queue retry ID ... (or --all)\r\n\r\n"
    )
}

fn per_message(hostname: &str) -> String {
    let mut out = String::new();
    field(&mut out, "Reporting-MTA", &format!("dns; {hostname}"));
    out
}

/// A group of fields; `recipient` is the address with its type.
fn per_recipient(out: &mut String, recipient: &str, action: &str, status: Enhanced) {
    out.push_str("\r\n");
    field(out, "Final-Recipient", recipient);
    field(out, "Action", action);
    field(out, "Status", &status.to_string());
}

/// An address with its type. One that ASCII cannot hold is `utf-8`, in the form for 7-bit fields
/// (RFC 6533 section 3).
fn recipient(address: &Address) -> String {
    let address = address.to_string();
    if address.is_ascii() {
        return format!("rfc822; {}", ascii(&address));
    }
    let mut encoded = String::from("utf-8; ");
    for c in address.chars() {
        match c {
            '+' | '=' | '\\' => {
                let _ = write!(encoded, "\\x{{{:X}}}", u32::from(c));
            }
            c if c.is_ascii_graphic() => encoded.push(c),
            c => {
                let _ = write!(encoded, "\\x{{{:X}}}", u32::from(c));
            }
        }
    }
    encoded
}

/// The name of a next hop as `Remote-MTA` has it: a domain, or an address literal (RFC 5321 section
/// 4.1.3), never a port.
fn mta_name(relay: &str) -> String {
    let host = match (relay.parse::<SocketAddr>(), relay.rsplit_once(':')) {
        (Ok(address), _) => return literal(address.ip()),
        (_, Some((host, port)))
            if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) =>
        {
            host
        }
        _ => relay,
    };
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => literal(ip),
        Err(_) => ascii(host),
    }
}

fn literal(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    }
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

/// The body of an NDR around an attached message. One whose header is not ASCII is a
/// `message/global` (RFC 6532 section 3.7).
pub(super) fn body(
    account: &Account,
    attached: BodyKind,
    is_global: bool,
    boundary: &str,
) -> (String, String) {
    let subtype = if is_global { "global" } else { "rfc822" };
    let before = format!(
        "{}Content-Type: message/{subtype}\r\nContent-Transfer-Encoding: {}\r\n\r\n",
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
    fn a_remote_mta_has_no_port() {
        for (relay, expected) in [
            ("mx.archive.test:25", "mx.archive.test"),
            ("mx.archive.test", "mx.archive.test"),
            ("192.0.2.1:2525", "[192.0.2.1]"),
            ("192.0.2.1", "[192.0.2.1]"),
            ("[192.0.2.1]:25", "[192.0.2.1]"),
            ("[2001:db8::1]:25", "[IPv6:2001:db8::1]"),
            ("2001:db8::1", "[IPv6:2001:db8::1]"),
            ("[2001:db8::1]", "[IPv6:2001:db8::1]"),
        ] {
            assert_eq!(mta_name(relay), expected, "{relay}");
        }
    }

    #[test]
    fn a_recipient_that_is_not_ascii_is_utf8() {
        for (address, expected) in [
            ("ana+x@corp.test", "rfc822; ana+x@corp.test"),
            (
                "j\u{fc}rg+a=b@corp.test",
                "utf-8; j\\x{FC}rg\\x{2B}a\\x{3D}b@corp.test",
            ),
            ("\u{1f4e8}@corp.test", "utf-8; \\x{1F4E8}@corp.test"),
        ] {
            let address = Address::parse(address).expect("a valid address");
            assert_eq!(recipient(&address), expected);
        }
    }

    #[test]
    fn no_line_about_a_wrong_value_is_longer_than_mail_allows() {
        let value = "\u{1}".repeat(5000);
        let invalid = InvalidTarget {
            direction: Direction::Inbound,
            ndr: Address::parse("ndr@corp.example").expect("a valid address"),
            dn: Some(value.clone()),
            attribute: "journal".into(),
            error: Target::parse(&value).expect_err("no target"),
            value,
        };
        let account = malformed(&invalid, "mx.corp.example");
        for line in account.text.lines().chain(account.status.lines()) {
            assert!(line.len() <= 998, "{} bytes: {line}", line.len());
        }
    }
}
