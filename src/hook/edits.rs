//! Milter edits: the steps that turn a message as received into the message to deliver.
//!
//! The protocol has no "replace the message": fields are changed by name and number, and the body
//! as a whole.

use std::collections::{HashMap, HashSet};

use crate::journal::is_ours;
use crate::mail::Message;
use crate::milter::{Edit, Path};
use crate::pipeline::Changes;

/// Returns the edits for these changes, in an order that every MTA accepts.
pub(super) fn edits(message: &Message, changes: &Changes, recipients: &[Path]) -> Vec<Edit> {
    let mut edits = Vec::new();
    if changes.edited.is_some() || changes.strips {
        let after = changes.edited.as_ref().unwrap_or(message);
        edits.extend(header(message, after, changes.strips));
    }
    if let Some(edited) = &changes.edited {
        let (was, is) = (message.content(), edited.content().beginning());
        let body = is.slice(edited.header().len()..);
        // An edited body is in memory; one that was stored on disk is replaced without comparing.
        if was.beginning().len() < was.len() || was.beginning()[message.header().len()..] != body {
            edits.push(Edit::ReplaceBody(body));
        }
    }
    edits.extend(deletions(&changes.moved, recipients));
    edits
}

/// Returns the deletions of the recipients at these indices.
fn deletions(moved: &[usize], recipients: &[Path]) -> Vec<Edit> {
    fn written(path: &Path) -> &str {
        path.address.trim_matches(['<', '>'])
    }
    let deleted: HashSet<&usize> = moved.iter().collect();
    let staying = recipients.iter().enumerate();
    let staying = staying.filter(|(place, _)| !deleted.contains(place));
    let staying: HashSet<&str> = staying
        .flat_map(|(_, path)| [written(path), path.resolved.as_str()])
        .collect();
    let mut deletions = Vec::new();
    for path in moved.iter().filter_map(|&place| recipients.get(place)) {
        deletions.push(path.address.clone());
        // Postfix without enable_original_recipient knows only the rewritten address; it ignores
        // addresses it does not know.
        let resolved = &path.resolved;
        if !resolved.is_empty() && resolved != written(path) && !staying.contains(resolved.as_str())
        {
            deletions.push(resolved.clone());
        }
    }
    deletions.into_iter().map(Edit::DeleteRecipient).collect()
}

/// Returns the edits of fields that differ, name by name; with `strips`, of Copyist's own fields as
/// well, which are deleted.
fn header(before: &Message, after: &Message, strips: bool) -> Vec<Edit> {
    let (was, mut is) = (values(before), values(after));
    is.retain(|name, _| !strips || !is_ours(name));
    let mut names: Vec<&String> = was
        .keys()
        .chain(is.keys().filter(|name| !was.contains_key(*name)))
        .collect();
    names.sort_unstable();
    let none = FieldValues::default();
    let mut edits = Vec::new();
    for name in names {
        let (was, is) = (
            was.get(name).unwrap_or(&none),
            is.get(name).unwrap_or(&none),
        );
        let most = was.values.len().max(is.values.len());
        // From last to first: deleting a field renumbers those after it.
        for place in (0..most).rev() {
            let spelled = if was.spelled.is_empty() {
                &is.spelled
            } else {
                &was.spelled
            };
            let name = spelled.clone();
            match (was.values.get(place), is.values.get(place)) {
                (Some(old), Some(new)) if old == new => {}
                (None, Some(new)) => edits.push(Edit::AddHeader {
                    name,
                    value: new.clone(),
                }),
                (Some(_), new) => edits.push(Edit::ChangeHeader {
                    index: u32::try_from(place + 1).unwrap_or(u32::MAX),
                    name,
                    value: new.cloned().unwrap_or_default(),
                }),
                (None, None) => {}
            }
        }
    }
    edits
}

/// The values of the fields of one name, in order.
#[derive(Default)]
struct FieldValues {
    spelled: String,
    values: Vec<String>,
}

/// Collects field values by lowercase name, without the space after the colon.
fn values(message: &Message) -> HashMap<String, FieldValues> {
    let mut named: HashMap<String, FieldValues> = HashMap::new();
    for field in message.fields() {
        let value = field.value.strip_prefix(b" ").unwrap_or(field.value);
        let of = named.entry(field.name.to_ascii_lowercase()).or_default();
        if of.spelled.is_empty() {
            of.spelled = field.name.to_owned();
        }
        of.values.push(String::from_utf8_lossy(value).into_owned());
    }
    named
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(text: &'static str) -> Message {
        Message::new(Bytes::from_static(text.as_bytes()))
    }

    fn said(before: &'static str, after: &'static str) -> Vec<Edit> {
        let changes = Changes {
            edited: Some(message(after)),
            ..Changes::default()
        };
        edits(&message(before), &changes, &[])
    }

    #[test]
    fn only_differences_are_sent() {
        let before = "Subject: s\r\ncontent-type: text/plain\r\nX: 1\r\nX: 2\r\nX: 3\r\n\r\nx\r\n";
        let after = "Subject: s\r\ncontent-type: text/plain;\r\n charset=utf-8\r\nX: 1\r\nX: 3\r\nMIME-Version: 1.0\r\n\r\ny\r\n";
        let change = |index, name: &str, value: &str| Edit::ChangeHeader {
            index,
            name: name.into(),
            value: value.into(),
        };
        let expected = vec![
            change(1, "content-type", "text/plain;\r\n charset=utf-8"),
            Edit::AddHeader {
                name: "MIME-Version".into(),
                value: "1.0".into(),
            },
            change(3, "X", ""),
            change(2, "X", "3"),
            Edit::ReplaceBody(Bytes::from_static(b"y\r\n")),
        ];
        assert_eq!(said(before, after), expected);
        assert_eq!(said(before, before), []);
    }

    #[test]
    fn fields_that_only_we_may_write_go_from_the_last_to_the_first() {
        let before = message(
            "X-Copyist-Seal: a\r\nSubject: s\r\nx-copyist-seal: b\r\nX-COPYIST-: c\r\nX-Copyistic: d\r\n\r\nx\r\n",
        );
        let gone = |index, name: &str| Edit::ChangeHeader {
            index,
            name: name.into(),
            value: String::new(),
        };
        let changes = Changes {
            strips: true,
            ..Changes::default()
        };
        let expected = [
            gone(1, "X-COPYIST-"),
            gone(2, "X-Copyist-Seal"),
            gone(1, "X-Copyist-Seal"),
        ];
        assert_eq!(edits(&before, &changes, &[]), expected);
    }

    #[test]
    fn recipients_go_as_the_mta_knows_them() {
        let path = |address: &str, resolved: &str| Path {
            address: address.into(),
            resolved: resolved.into(),
            ..Path::default()
        };
        let recipients = [
            path("<a@b>", "a@b"),
            path("<C@d>", "c@d.example"),
            path("<e!f>", "a@b"),
        ];
        let gone = |address: &str| Edit::DeleteRecipient(address.into());
        let expected = [gone("<C@d>"), gone("c@d.example"), gone("<e!f>")];
        assert_eq!(deletions(&[1, 2], &recipients), expected);
    }
}
