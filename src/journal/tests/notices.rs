//! Which messages are notices about something of ours, and what they say.

use super::*;

/// What a message without a reverse path is recorded as, and the item that it is about.
fn read(composer: &Composer, text: &str) -> Option<(ItemId, String)> {
    let (item, bounce) = composer.notice(&message(text), true)?;
    Some((item, bounce.action))
}

fn sent(composer: &Composer, format: Format) -> (Item, String) {
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let (original, plan) = (message(OFFER), plan(true, format, &["j@corp.example"]));
    let item = only(composer.compose(&envelope, &original, &plan, now()));
    let text = String::from_utf8(whole(&item, &original)).expect("ASCII");
    (item, text)
}

/// A delivery status notification as MTAs write it: this status, and this returned.
fn dsn(status: &str, returned: &str) -> String {
    format!(
        "From: MAILER-DAEMON@archive.test\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"b/1\"\r\n\r\n\
         --b/1\r\n\r\nSorry.\r\n\r\n--b/1\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.archive.test\r\n{status}\r\n\
         --b/1\r\n{returned}\r\n--b/1--\r\n"
    )
}

fn of_recipient(action: &str) -> String {
    format!("\r\nFinal-Recipient: rfc822; j@archive.test\r\nAction: {action}\r\nStatus: 5.1.1\r\n")
}

#[test]
fn notices_are_recognized_by_token_and_classified() {
    let composer = composer();
    let (item, text) = sent(&composer, Format::Report);
    let (envelope_id, message_id) = (&item.envelope_id, &item.message_id);
    let returned = format!("Content-Type: message/rfc822\r\n\r\n{text}");
    let header = &text[..text.find("\r\n\r\n").expect("a header")];
    let coded = header.replace('=', "=3D");
    let failed = of_recipient("failed");
    let with_id = |rest: &str| format!("Original-Envelope-Id: {envelope_id}\r\n{rest}");
    let reply = |fields: &str| format!("{fields}\r\n\r\nI am away.\r\n");
    let nothing = "Content-Type: text/plain\r\n\r\ngone";
    for (kind, notice) in [
        ("failed", dsn(&with_id(&failed), nothing)),
        ("delayed", dsn(&with_id(&of_recipient("Delayed")), nothing)),
        ("relayed", dsn(&with_id(&of_recipient("relayed")), nothing)),
        (
            "failed",
            dsn(&with_id(&(of_recipient("relayed") + &failed)), nothing),
        ),
        ("failed", dsn(&failed, &returned)),
        ("", dsn("", &returned)),
        (
            "failed",
            dsn(
                &failed,
                &format!("Content-Type: text/rfc822-headers\r\n\r\n{header}\r\n"),
            ),
        ),
        (
            "failed",
            dsn(
                &failed,
                &format!(
                    "Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{coded}\r\n"
                ),
            ),
        ),
        // qmail, and Exim before it knew of RFC 3464.
        (
            "",
            format!(
                "Subject: failure notice\r\n\r\nHi. This is qmail.\r\n\r\n--- Below.\r\n\r\nReturn-Path: <x>\r\n{text}"
            ),
        ),
        (
            "auto-reply",
            reply(&format!(
                "Auto-Submitted: auto-replied\r\nIn-Reply-To: {message_id}"
            )),
        ),
        (
            "auto-reply",
            reply(&format!("References: <1@x.test>\r\n {message_id}")),
        ),
        (
            "",
            reply(&format!(
                "X-Failed-Recipients: j@archive.test\r\nReferences: {message_id}"
            )),
        ),
        (
            "receipt",
            dsn(
                "",
                &format!(
                    "Content-Type: message/disposition-notification\r\n\r\nOriginal-Message-ID: {message_id}\r\nDisposition: x; deleted\r\n"
                ),
            ),
        ),
    ] {
        assert_eq!(
            read(&composer, &notice),
            Some((item.id.clone(), kind.to_owned())),
            "{notice}"
        );
        let forged = notice.replace(envelope_id, "copyist.aaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaa");
        let forged = forged.replace("X-Copyist-Seal", "X-No-Seal");
        assert_eq!(read(&composer, &forged), None, "{forged}");
        assert_eq!(
            read(&self::composer(), &notice),
            None,
            "another key: {notice}"
        );
    }
}

#[test]
fn a_bounce_of_a_plain_copy_is_known_by_the_seal_it_returns() {
    let composer = composer();
    let (item, text) = sent(&composer, Format::Copy);
    let bounce = dsn(
        &of_recipient("failed"),
        &format!("Content-Type: message/rfc822\r\n\r\n{text}"),
    );
    assert_eq!(read(&composer, &bounce), Some((item.id, "failed".into())));
}

#[test]
fn a_token_elsewhere_makes_no_notice() {
    let composer = composer();
    let (item, text) = sent(&composer, Format::Report);
    let attached = format!(
        "Message-ID: <forward@corp.example>\r\nReferences: {}\r\nContent-Type: multipart/mixed; boundary=f\r\n\r\n\
         --f\r\nContent-Type: message/rfc822\r\n\r\n{text}\r\n--f--\r\n",
        item.message_id
    );
    for text in [
        // Somebody forwarded a report, and that came back.
        dsn(
            &of_recipient("failed"),
            &format!("Content-Type: message/rfc822\r\n\r\n{attached}"),
        ),
        format!("Subject: failure notice\r\n\r\nHi. This is qmail.\r\n\r\n{attached}"),
        format!(
            "Subject: look\r\n\r\nThe report {} is strange.\r\n",
            item.message_id
        ),
        format!(
            "Subject: {}\r\nX-Envelope: {}\r\n\r\n",
            item.message_id, item.envelope_id
        ),
    ] {
        assert_eq!(read(&composer, &text), None, "{text}");
    }
}

#[test]
fn a_person_s_reply_is_not_a_notice() {
    let composer = composer();
    let (item, _) = sent(&composer, Format::Report);
    let answer = |fields: &str| {
        message(&format!(
            "{fields}In-Reply-To: {}\r\n\r\nWhy?\r\n",
            item.message_id
        ))
    };
    for (fields, is_one) in [
        ("", false),
        ("Auto-Submitted: no\r\nPrecedence: list\r\n", false),
        ("Auto-Submitted: auto-replied (vacation)\r\n", true),
        ("Precedence: junk\r\n", true),
        (
            "Content-Type: multipart/report; report-type=disposition-notification; boundary=b\r\n",
            true,
        ),
    ] {
        assert_eq!(
            composer.notice(&answer(fields), false).is_some(),
            is_one,
            "{fields}"
        );
    }
}
