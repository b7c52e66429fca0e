//! Plain copies without what a header asks of those who carry or keep them.
//!
//! A copy has the header that somebody wrote for the message's recipients. Some of its fields are
//! orders to a relay, and some keep a copy out of its mailbox or tell its author of it. Where there
//! is one, the copy has it under another name, which nobody obeys; all else is as it was. In a
//! journal report the header is an attachment's, and nobody obeys it anyway.

use std::borrow::Cow;

use bytes::BytesMut;

use crate::mail::{Fields, Message};

/// What such a field is called in a copy: this, and its name.
const RENAMED: &str = "X-Copyist-Original-";

/// Fields that MTAs, mailboxes and archives act on.
const ORDERS: [&str; 8] = [
    // A relay may deliver it without TLS (RFC 8689).
    "TLS-Required",
    // Postfix, qmail and Courier return what names the mailbox that they deliver to, as a mail
    // loop.
    "Delivered-To",
    // Archives take it for a journal report, and what it says for the envelope.
    "X-MS-Journal-Report",
    "X-MS-Exchange-Organization-Journal-Report",
    // Mailboxes that answer by themselves would tell the author that there is a copy (Exchange,
    // when it is removed unread).
    "Disposition-Notification-To",
    "X-Confirm-Reading-To",
    // Sendmail sends news of the delivery there (RrtImpliesDsn, UseErrorsTo).
    "Return-Receipt-To",
    "Errors-To",
];

/// Received fields that keep their name, the newest: the relay and those behind it count them, and
/// MTAs refuse what has more than 25 (Sendmail), 30 (Exim) or 50 (Postfix).
const HOPS: usize = 15;

/// The message as a plain copy carries it; `None` if that is as it stands.
pub fn inert(message: &Message) -> Option<Message> {
    let header = as_sent(message.header());
    let mut hops = 0;
    let orders = Fields::new(&header).filter(|field| {
        let is_named = |name: &&str| field.name.eq_ignore_ascii_case(name);
        hops += usize::from(is_named(&"Received"));
        ORDERS.iter().any(is_named) || (is_named(&"Received") && hops > HOPS)
    });
    let orders: Vec<usize> = orders.map(|field| field.range.start).collect();
    if orders.is_empty() {
        return None;
    }
    let mut renamed = BytesMut::with_capacity(header.len() + orders.len() * RENAMED.len());
    let mut from = 0;
    for at in orders {
        renamed.extend_from_slice(&header[from..at]);
        renamed.extend_from_slice(RENAMED.as_bytes());
        from = at;
    }
    renamed.extend_from_slice(&header[from..]);
    let length = renamed.len();
    let content = message.content();
    let content = content.with_beginning(renamed.freeze(), message.header().len());
    Some(Message::with_header(content, length))
}

/// The header with each bare CR as a line break, as the relay gets it: a field may begin there.
fn as_sent(header: &[u8]) -> Cow<'_, [u8]> {
    let is_bare = |at: &usize| header.get(at + 1) != Some(&b'\n');
    let mut bare = memchr::memchr_iter(b'\r', header)
        .filter(is_bare)
        .peekable();
    if bare.peek().is_none() {
        return header.into();
    }
    let mut sent = Vec::with_capacity(header.len() + 64);
    let mut from = 0;
    for at in bare {
        sent.extend_from_slice(&header[from..=at]);
        sent.push(b'\n');
        from = at + 1;
    }
    sent.extend_from_slice(&header[from..]);
    sent.into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn renamed(text: &str) -> Option<String> {
        let message = Message::new(Bytes::copy_from_slice(text.as_bytes()));
        let inert = inert(&message)?;
        let content = inert.content().read().expect("in memory");
        assert!(inert.header().ends_with(b"\r\n"));
        Some(String::from_utf8(content.to_vec()).expect("text"))
    }

    #[test]
    fn orders_have_another_name_and_all_else_stays() {
        let found = renamed(
            "From: a@b.test\r\ntls-required : no\r\nX:\r\n y\r\nDelivered-To: j@b.test\r\n\r\nTLS-Required: no\r\n",
        );
        assert_eq!(
            found.as_deref(),
            Some(
                "From: a@b.test\r\nX-Copyist-Original-tls-required : no\r\nX:\r\n y\r\n\
                 X-Copyist-Original-Delivered-To: j@b.test\r\n\r\nTLS-Required: no\r\n"
            )
        );
        for ordinary in [
            "",
            "\r\n",
            " TLS-Required: no\r\n\r\n",
            "X:\r\n TLS-Required: no\r\n\r\nTLS-Required: no\r\n",
            "X: a\rb\r\n\r\n",
        ] {
            assert_eq!(renamed(ordinary), None, "{ordinary:?}");
        }
    }

    #[test]
    fn an_order_behind_a_bare_cr_is_one() {
        assert_eq!(
            renamed("X: a\rTLS-Required: no\r\n\r\nb\rc").as_deref(),
            Some("X: a\r\nX-Copyist-Original-TLS-Required: no\r\n\r\nb\rc")
        );
        // What comes behind an empty line is no header for the relay.
        assert_eq!(renamed("X: a\r\rTLS-Required: no\r\n\r\n"), None);
    }

    #[test]
    fn a_relay_counts_the_newest_hops_alone() {
        let hops =
            |count: usize| -> String { (0..count).map(|n| format!("Received: {n}\r\n")).collect() };
        assert_eq!(renamed(&format!("{}\r\n", hops(HOPS))), None);
        let found = renamed(&format!("{}\r\n", hops(40))).expect("renamed");
        assert_eq!(found.matches("\r\nReceived: ").count() + 1, HOPS);
        assert!(found.contains("\r\nReceived: 14\r\nX-Copyist-Original-Received: 15\r\n"));
        assert!(found.ends_with("X-Copyist-Original-Received: 39\r\n\r\n"));
    }
}
