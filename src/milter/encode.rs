//! Encodes decisions as response packets.
//!
//! Promises: edits are sent all or not at all. They are checked and written into one buffer,
//! followed by the answer; if one cannot be encoded, the whole decision becomes a temporary failure
//! instead of a part of the edits (Postfix and Sendmail both go on after an edit they cannot
//! parse). Pure; fails only with an [`EditError`].

use bytes::BytesMut;

use super::edit::{Edit, EditError, LONGEST, MessageAnswer, MessageDecision, RecipientAnswer};
use super::negotiation::{Actions, Agreement, Steps};
use super::response::Response;
use crate::mail::Reply;

/// Largest chunk of a new body (`MILTER_CHUNK_SIZE`); every MTA accepts it, whatever was
/// negotiated.
const CHUNK: usize = 65_535;

/// Longest reply line with its codes (RFC 5321 section 4.5.3.1.5, without CRLF). A longer text is
/// truncated.
const REPLY_LINE: usize = 510;

impl RecipientAnswer {
    /// Appends the answer; on an error, a temporary failure.
    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), EditError> {
        match self {
            RecipientAnswer::Accept => Response::Continue.encode(out),
            RecipientAnswer::Reject => Response::Reject.encode(out),
            RecipientAnswer::Tempfail => Response::Tempfail.encode(out),
            RecipientAnswer::Reply(reply) => return encode_reply(reply, out),
        }
        Ok(())
    }
}

impl MessageDecision {
    /// Appends the edits and the answer; on an error, only a temporary failure.
    pub(super) fn encode(
        &self,
        agreement: &Agreement,
        out: &mut BytesMut,
    ) -> Result<(), EditError> {
        match &self.answer {
            MessageAnswer::Accept => {
                let start = out.len();
                if let Err(error) = encode_edits(&self.edits, agreement, out) {
                    out.truncate(start);
                    Response::Tempfail.encode(out);
                    return Err(error);
                }
                Response::Accept.encode(out);
            }
            MessageAnswer::Reject => Response::Reject.encode(out),
            MessageAnswer::Tempfail => Response::Tempfail.encode(out),
            MessageAnswer::Discard => Response::Discard.encode(out),
            MessageAnswer::Reply(reply) => return encode_reply(reply, out),
        }
        Ok(())
    }
}

/// Checks that these edits can be encoded for an MTA with this agreement. Encoding them finds the
/// same errors, but too late for callers that have already stored copies relying on the edits.
pub fn check_edits(edits: &[Edit], agreement: &Agreement) -> Result<(), EditError> {
    let mut scratch = BytesMut::new();
    edits.iter().try_for_each(|edit| match edit {
        // Any body can be encoded if the MTA allows one.
        Edit::ReplaceBody(_) => {
            let nothing = Edit::ReplaceBody(bytes::Bytes::new());
            encode_edit(&nothing, agreement, &mut scratch)
        }
        other => encode_edit(other, agreement, &mut scratch),
    })
}

fn encode_edits(
    edits: &[Edit],
    agreement: &Agreement,
    out: &mut BytesMut,
) -> Result<(), EditError> {
    let is_body = |edit: &&Edit| matches!(edit, Edit::ReplaceBody(_));
    if edits.iter().filter(is_body).count() > 1 {
        return Err(EditError::TwoBodies);
    }
    edits
        .iter()
        .try_for_each(|edit| encode_edit(edit, agreement, out))
}

fn encode_edit(edit: &Edit, agreement: &Agreement, out: &mut BytesMut) -> Result<(), EditError> {
    let action = edit.action();
    let start = out.len();
    if !edit.needs().iter().any(|needs| agreement.allows(*needs)) {
        return Err(EditError::NotAgreed { action });
    }
    let value =
        |value: &str| wire_value(value, agreement).map_err(|reason| invalid(action, value, reason));
    match edit {
        Edit::AddHeader { name, value: text } => {
            let (name, value) = (field_name(action, name)?, &value(text)?);
            Response::AddHeader { name, value }.encode(out);
        }
        Edit::InsertHeader {
            index,
            name,
            value: text,
        } => {
            let (name, value, index) = (field_name(action, name)?, &value(text)?, *index);
            Response::InsertHeader { index, name, value }.encode(out);
        }
        Edit::ChangeHeader {
            index,
            name,
            value: text,
        } => {
            let (name, index) = (field_name(action, name)?, *index);
            // A leading space would make the value non-empty and keep the field.
            let value: &[u8] = if text.is_empty() { &[] } else { &value(text)? };
            Response::ChangeHeader { index, name, value }.encode(out);
        }
        Edit::ReplaceBody(body) => {
            // An empty body is one empty chunk; without it nothing would be replaced.
            let empty = body.is_empty().then_some(&body[..]);
            for chunk in body.chunks(CHUNK).chain(empty) {
                Response::ReplaceBody(chunk).encode(out);
            }
            return Ok(());
        }
        Edit::AddRecipient { address, params } => {
            let (address, params) = path(action, address, params)?;
            let (address, params) = (address.as_bytes(), params.as_bytes());
            if params.is_empty() && agreement.allows(Actions::ADD_RECIPIENTS) {
                Response::AddRecipient(address).encode(out);
            } else {
                Response::AddRecipientWith { address, params }.encode(out);
            }
        }
        Edit::DeleteRecipient(address) => {
            let (address, _) = path(action, address, &[])?;
            Response::DeleteRecipient(address.as_bytes()).encode(out);
        }
        Edit::ChangeSender { address, params } => {
            let (address, params) = path(action, address, params)?;
            let (address, params) = (address.as_bytes(), params.as_bytes());
            Response::ChangeSender { address, params }.encode(out);
        }
        Edit::Quarantine(reason) => {
            one_line(action, reason)?;
            Response::Quarantine(reason.as_bytes()).encode(out);
        }
    }
    let length = out.len() - start;
    if length > LONGEST {
        return Err(EditError::TooLong { action, length });
    }
    Ok(())
}

impl Edit {
    /// Returns the actions of which any one allows the edit.
    fn needs(&self) -> &'static [Actions] {
        match self {
            Edit::AddHeader { .. } | Edit::InsertHeader { .. } => &[Actions::ADD_HEADERS],
            Edit::ChangeHeader { .. } => &[Actions::CHANGE_HEADERS],
            Edit::ReplaceBody(_) => &[Actions::CHANGE_BODY],
            Edit::AddRecipient { params, .. } if params.is_empty() => {
                &[Actions::ADD_RECIPIENTS, Actions::ADD_RECIPIENTS_WITH_PARAMS]
            }
            Edit::AddRecipient { .. } => &[Actions::ADD_RECIPIENTS_WITH_PARAMS],
            Edit::DeleteRecipient(_) => &[Actions::DELETE_RECIPIENTS],
            Edit::ChangeSender { .. } => &[Actions::CHANGE_SENDER],
            Edit::Quarantine(_) => &[Actions::QUARANTINE],
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Edit::AddHeader { .. } | Edit::InsertHeader { .. } => "add a header field",
            Edit::ChangeHeader { .. } => "change a header field",
            Edit::ReplaceBody(_) => "replace the body",
            Edit::AddRecipient { params, .. } if params.is_empty() => "add a recipient",
            Edit::AddRecipient { .. } => "add a recipient with parameters",
            Edit::DeleteRecipient(_) => "delete a recipient",
            Edit::ChangeSender { .. } => "change the sender",
            Edit::Quarantine(_) => "quarantine the message",
        }
    }
}

fn invalid(action: &'static str, text: &str, reason: &'static str) -> EditError {
    EditError::Invalid {
        action,
        text: text.chars().take(80).collect(),
        reason,
    }
}

fn field_name<'a>(action: &'static str, name: &'a str) -> Result<&'a [u8], EditError> {
    let bytes = name.as_bytes();
    let is_name = |byte: &u8| (33..=126).contains(byte) && *byte != b':';
    if bytes.is_empty() || !bytes.iter().all(is_name) {
        return Err(invalid(action, name, "is not a valid field name"));
    }
    Ok(bytes)
}

/// Encodes a header value: with a leading space if the MTA does not add one, lines separated by a
/// bare LF.
fn wire_value(value: &str, agreement: &Agreement) -> Result<Vec<u8>, &'static str> {
    let mut wire = Vec::with_capacity(value.len() + 1);
    if agreement.has(Steps::LEADING_SPACE) {
        wire.push(b' ');
    }
    let lines = value
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    for (at, line) in lines.enumerate() {
        if line.contains(['\r', '\0']) {
            return Err("has a control character that is not allowed in a header field");
        }
        if at > 0 {
            // Without leading white space the line would be a field of its own.
            if !line.starts_with([' ', '\t']) {
                return Err("has a continuation line without leading white space");
            }
            wire.push(b'\n');
        }
        wire.extend_from_slice(line.as_bytes());
    }
    Ok(wire)
}

fn path<'a>(
    action: &'static str,
    address: &'a str,
    params: &[String],
) -> Result<(&'a str, String), EditError> {
    if address.is_empty() {
        return Err(invalid(action, address, "is not a valid address"));
    }
    one_line(action, address)?;
    for param in params {
        if param.is_empty() || param.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(invalid(action, param, "is not a valid ESMTP parameter"));
        }
    }
    Ok((address, params.join(" ")))
}

fn one_line(action: &'static str, text: &str) -> Result<(), EditError> {
    if text.contains(['\r', '\n', '\0']) {
        return Err(invalid(action, text, "contains a line break or NUL"));
    }
    Ok(())
}

/// Appends a reply, or a temporary failure if an MTA would not accept it: both reject one that is
/// not 4yz or 5yz, and Postfix also one whose enhanced status is of another class.
fn encode_reply(reply: &Reply, out: &mut BytesMut) -> Result<(), EditError> {
    let class = u16::from(reply.enhanced.0);
    let is_line = !reply.text.contains(char::is_control);
    if !(400..600).contains(&reply.code) || reply.code / 100 != class || !is_line {
        Response::Tempfail.encode(out);
        let reply = reply.to_string();
        return Err(EditError::InvalidReply { reply });
    }
    let line = reply.to_string();
    let line = &line[..line.floor_char_boundary(REPLY_LINE)];
    // Sendmail gives the reply to usrerr() as a format and drops one with a single percent sign
    // (milter.c, MILTER_CHECK_REPLYCODE); Postfix undoes the doubling (milter8.c, SMFIR_REPLYCODE).
    Response::Reply(line.replace('%', "%%").as_bytes()).encode(out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mail::Enhanced;
    use crate::milter::{Frames, Offer, Requirements};

    fn agreement(actions: Actions, steps: Steps) -> Agreement {
        let requirements = Requirements {
            actions,
            answer_recipients: true,
        };
        let offer = Offer {
            version: 6,
            actions,
            steps,
        };
        requirements.negotiate(offer).expect("version 6")
    }

    fn everything() -> Agreement {
        agreement(Actions::from_bits(0xff), Steps::LEADING_SPACE)
    }

    /// The packets of an outcome, each as its letter and payload.
    fn encoded(
        outcome: &MessageDecision,
        agreement: &Agreement,
    ) -> (Vec<String>, Option<EditError>) {
        let mut out = BytesMut::new();
        let error = outcome.encode(agreement, &mut out).err();
        let mut frames = Frames::new();
        frames.space().extend_from_slice(&out);
        let mut packets = Vec::new();
        while let Some(frame) = frames.next().expect("our own packets are well formed") {
            let payload = String::from_utf8_lossy(frame.payload);
            packets.push(format!("{}{payload}", frame.kind as char));
        }
        (packets, error)
    }

    fn accept(edits: Vec<Edit>) -> MessageDecision {
        let answer = MessageAnswer::Accept;
        MessageDecision { edits, answer }
    }

    fn add(name: &str, value: &str) -> Edit {
        let (name, value) = (name.to_owned(), value.to_owned());
        Edit::AddHeader { name, value }
    }

    fn to(address: &str, params: &[&str]) -> Edit {
        Edit::AddRecipient {
            address: address.to_owned(),
            params: params.iter().map(|param| (*param).to_owned()).collect(),
        }
    }

    #[test]
    fn edits_come_in_order_and_the_answer_last() {
        let change = |index, value: &str| Edit::ChangeHeader {
            index,
            name: "Subject".to_owned(),
            value: value.to_owned(),
        };
        let outcome = accept(vec![
            add("X-A", "1"),
            Edit::InsertHeader {
                index: 0,
                name: "X-B".to_owned(),
                value: "2".to_owned(),
            },
            change(1, "new"),
            change(2, ""),
            Edit::ReplaceBody(Bytes::from_static(b"b\r\n")),
            to("<c@d.example>", &[]),
            to("<e@f.example>", &["NOTIFY=NEVER", "ORCPT=rfc822;x"]),
            Edit::DeleteRecipient("<g@h.example>".to_owned()),
            Edit::ChangeSender {
                address: "<>".to_owned(),
                params: vec![],
            },
            Edit::Quarantine("odd".to_owned()),
        ]);
        let (packets, error) = encoded(&outcome, &everything());
        assert_eq!(error, None);
        assert_eq!(
            packets,
            [
                "hX-A\0 1\0",
                "i\0\0\0\0X-B\0 2\0",
                "m\0\0\0\u{1}Subject\0 new\0",
                "m\0\0\0\u{2}Subject\0\0",
                "bb\r\n",
                "+<c@d.example>\0",
                "2<e@f.example>\0NOTIFY=NEVER ORCPT=rfc822;x\0",
                "-<g@h.example>\0",
                "e<>\0",
                "qodd\0",
                "a",
            ]
        );
    }

    #[test]
    fn the_mta_adds_the_space_where_it_takes_it_away() {
        let agreement = agreement(Actions::ADD_HEADERS, Steps::NONE);
        let (packets, _) = encoded(&accept(vec![add("A", "1")]), &agreement);
        assert_eq!(packets, ["hA\x001\0", "a"]);
    }

    #[test]
    fn folded_values_go_out_with_bare_line_feeds() {
        let (packets, _) = encoded(&accept(vec![add("A", "1\r\n 2\n\t3")]), &everything());
        assert_eq!(packets, ["hA\0 1\n 2\n\t3\0", "a"]);
    }

    #[test]
    fn one_impossible_edit_stops_all() {
        let some = agreement(Actions::ADD_HEADERS, Steps::LEADING_SPACE);
        for impossible in [
            Edit::DeleteRecipient("<a@b>".to_owned()),
            to("<a@b>", &[]),
            add("", "x"),
            add("A b", "x"),
            add("A:", "x"),
            add("A", "1\nBcc: x"),
            add("A", "1\rx"),
            add("A", "1\0"),
            add("A", &"x".repeat(LONGEST)),
        ] {
            let outcome = accept(vec![add("X", "y"), impossible.clone(), add("X", "z")]);
            let (packets, error) = encoded(&outcome, &some);
            assert_eq!(packets, ["t"], "{impossible:?}");
            assert!(error.is_some(), "{impossible:?}");
        }
    }

    #[test]
    fn addresses_and_parameters_are_one_line() {
        for impossible in [
            to("", &[]),
            to("<a@b>\r\nX", &[]),
            to("<a@b>", &["NOTIFY=NEVER X"]),
            to("<a@b>", &[""]),
            Edit::Quarantine("a\nb".to_owned()),
        ] {
            let (packets, error) = encoded(&accept(vec![impossible]), &everything());
            assert_eq!(packets, ["t"]);
            assert!(
                matches!(error, Some(EditError::Invalid { .. })),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_recipient_without_parameters_takes_either_permission() {
        let of = |actions| {
            encoded(
                &accept(vec![to("a@b", &[])]),
                &agreement(actions, Steps::NONE),
            )
            .0
        };
        assert_eq!(of(Actions::ADD_RECIPIENTS), ["+a@b\0", "a"]);
        assert_eq!(of(Actions::ADD_RECIPIENTS_WITH_PARAMS), ["2a@b\0", "a"]);
        assert_eq!(of(Actions::ADD_HEADERS), ["t"]);
    }

    #[test]
    fn a_body_goes_out_in_pieces_and_an_empty_one_too() {
        let body = |body: Vec<u8>| {
            let (packets, _) =
                encoded(&accept(vec![Edit::ReplaceBody(body.into())]), &everything());
            packets.iter().map(String::len).collect::<Vec<_>>()
        };
        assert_eq!(body(vec![]), [1, 1]);
        assert_eq!(body(vec![b'x'; CHUNK]), [CHUNK + 1, 1]);
        assert_eq!(body(vec![b'x'; CHUNK + 1]), [CHUNK + 1, 2, 1]);
    }

    #[test]
    fn two_bodies_are_one_too_many() {
        let body = || Edit::ReplaceBody(Bytes::from_static(b"x"));
        let (packets, error) = encoded(&accept(vec![body(), add("A", "1"), body()]), &everything());
        assert_eq!(
            (packets, error),
            (vec!["t".to_owned()], Some(EditError::TwoBodies))
        );
    }

    #[test]
    fn edits_of_a_refused_message_are_not_sent() {
        let outcome = MessageDecision {
            edits: vec![add("A", "1")],
            answer: MessageAnswer::Reject,
        };
        assert_eq!(
            encoded(&outcome, &everything()),
            (vec!["r".to_owned()], None)
        );
    }

    #[test]
    fn a_reply_doubles_its_percent_signs() {
        let reply = Reply::new(452, Enhanced(4, 2, 2), "95% full");
        let (packets, _) = encoded(&MessageAnswer::Reply(reply).into(), &everything());
        assert_eq!(packets, ["y452 4.2.2 95%% full\0"]);
    }

    #[test]
    fn a_long_reply_is_cut_between_characters() {
        let reply = Reply::new(550, Enhanced(5, 0, 0), "é".repeat(400));
        let (packets, _) = encoded(&MessageAnswer::Reply(reply).into(), &everything());
        assert!(
            (509..=512).contains(&packets[0].len()),
            "{}",
            packets[0].len()
        );
    }

    #[test]
    fn a_reply_that_refuses_nothing_becomes_a_tempfail() {
        let mut two_lines = Reply::new(550, Enhanced(5, 0, 0), "");
        two_lines.text = "a\r\n250 b".to_owned();
        for reply in [
            Reply::new(250, Enhanced(2, 0, 0), "ok"),
            Reply::new(550, Enhanced(4, 0, 0), "no"),
            Reply::new(5500, Enhanced(5, 0, 0), "no"),
            two_lines,
        ] {
            let (packets, error) = encoded(&MessageAnswer::Reply(reply).into(), &everything());
            assert_eq!(packets, ["t"]);
            assert!(matches!(error, Some(EditError::InvalidReply { .. })));
        }
    }
}
