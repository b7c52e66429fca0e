//! What a bounce says, as far as a line of a list can hold it.
//!
//! Lenient: bounces come in every shape, and one that says nothing that we understand is a bounce all the same.

use crate::mail::Fields;

/// Octets of a bounce that are read: its fields stand before the message that it returns.
const READ: usize = 64 * 1024;
/// Longest value kept, in characters.
const LONGEST: usize = 300;

/// What a bounce said (RFC 3464 section 2.2 and 2.3). Empty where it did not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounce {
    /// Who made it: `Reporting-MTA`.
    pub reporter: String,
    /// "failed", "delayed", "delivered", "relayed" or "expanded".
    pub action: String,
    /// `5.1.1`.
    pub status: String,
    /// `Diagnostic-Code`: what the last server said.
    pub said: String,
}

impl Bounce {
    /// Reads the first fields of these names in the body of a bounce.
    pub(super) fn read(body: &[u8]) -> Bounce {
        let body = &body[..body.len().min(READ)];
        let mut bounce = Bounce::default();
        let mut at = 0;
        while at < body.len() {
            let mut block = Fields::new(&body[at..]);
            for field in &mut block {
                let place = match field.name.to_ascii_lowercase().as_str() {
                    "reporting-mta" => &mut bounce.reporter,
                    "action" => &mut bounce.action,
                    "status" => &mut bounce.status,
                    "diagnostic-code" => &mut bounce.said,
                    _ => continue,
                };
                if place.is_empty() {
                    *place = value(field.value);
                }
            }
            // The block ended at an empty line, or at the end.
            at += block.position() + 1;
        }
        bounce
    }
}

/// A value on one line, without its type (`dns;`, `smtp;`) and without what a terminal would obey.
fn value(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let typed = text.split_once(';').filter(|(kind, _)| {
        kind.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-/".contains(c))
    });
    let text = typed.map_or(text.as_str(), |(_, rest)| rest.trim());
    let sound = text.chars().filter(|c| !c.is_control());
    sound.take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_bounce_are_read_wherever_they_stand() {
        let body = b"--b\r\n\r\nSorry: it did not work.\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n\
            Reporting-MTA: dns; mx.archive.test\r\n\r\nFinal-Recipient: rfc822; j@archive.test\r\nAction: failed\r\n\
            Status: 5.1.1\r\nDiagnostic-Code: smtp; 550\r\n 5.1.1 \x1b[2J no such user\r\n\r\n--b\r\n\r\nStatus: 2.0.0\r\n";
        let bounce = Bounce::read(body);
        let expected = Bounce {
            reporter: "mx.archive.test".into(),
            action: "failed".into(),
            status: "5.1.1".into(),
            said: "550 5.1.1 [2J no such user".into(),
        };
        assert_eq!(bounce, expected);
        assert_eq!(Bounce::read(b"it came back"), Bounce::default());
        assert_eq!(Bounce::read(&vec![b'\n'; 1 << 20]), Bounce::default());
    }
}
