//! Macros: what the MTA knows besides the commands (`i` the queue id, `{auth_authen}` the user, …).
//!
//! The MTA sends them in bundles, each for the command that follows, and the same name may come in
//! several: the queue id is known to Sendmail at MAIL, to Postfix only from the second RCPT on. So
//! they are kept per command, and the one sent last is found first.
//!
//! Promises: values of one message are never seen in the next one on the same connection. Never
//! fails; bytes that are not UTF-8 become U+FFFD. Postfix sends a bundle with every header field,
//! so taking one in allocates nothing once its scope has room.

use super::command::Stage;
use super::strings::Strings;

/// The macros that hold at some point of an SMTP session.
#[derive(Debug, Clone, Default)]
pub struct Macros {
    /// From the connection inwards; in each, names and values in turn, each ended by a NUL.
    scopes: [String; SCOPES],
    /// Whether the bundle for MAIL has had its MAIL: the next message must not see it.
    mail_is_used: bool,
}

const SCOPES: usize = 7;
const CONNECT: usize = 0;
const HELO: usize = 1;
const MAIL: usize = 2;
const RCPT: usize = 3;
const DATA: usize = 4;
const HEADER: usize = 5;
const END: usize = 6;

impl Macros {
    /// The value of a macro, named with its braces or without; the one sent last where there are
    /// several.
    pub fn get(&self, name: &str) -> Option<&str> {
        let name = bare(name);
        self.scopes.iter().rev().find_map(|scope| {
            let mut strings = scope.split_terminator('\0');
            while let (Some(key), Some(value)) = (strings.next(), strings.next()) {
                if bare(key) == name {
                    return Some(value);
                }
            }
            None
        })
    }

    /// Takes in a bundle; it replaces the earlier one for the same command.
    pub(super) fn set(&mut self, stage: Stage, pairs: Strings<'_>) {
        let scope = match stage {
            Stage::Connect => CONNECT,
            Stage::Helo => HELO,
            Stage::Mail => MAIL,
            Stage::Rcpt => RCPT,
            Stage::Data => DATA,
            Stage::Header | Stage::EndOfHeader => HEADER,
            Stage::Body | Stage::EndOfMessage => END,
            // Says nothing about a message.
            Stage::Unknown => return,
        };
        if scope == MAIL {
            self.mail_is_used = false;
        }
        let scope = &mut self.scopes[scope];
        scope.clear();
        scope.push_str(&String::from_utf8_lossy(pairs.bytes()));
    }

    /// MAIL came: its own bundle holds if it is new, everything further in is from an earlier
    /// message.
    pub(super) fn begin_message(&mut self) {
        let keep = if self.mail_is_used { MAIL } else { RCPT };
        self.clear_from(keep);
        self.mail_is_used = true;
    }

    /// The message is over, whichever way.
    pub(super) fn end_message(&mut self) {
        self.clear_from(MAIL);
    }

    /// The SMTP session is over.
    pub(super) fn end_connection(&mut self) {
        self.clear_from(CONNECT);
    }

    /// What holds for the message that ends here; what belongs to it alone is taken out.
    pub(super) fn take_for_message(&mut self) -> Macros {
        let mut taken = Macros::default();
        for (at, scope) in self.scopes.iter_mut().enumerate() {
            taken.scopes[at] = if at < MAIL {
                scope.clone()
            } else {
                std::mem::take(scope)
            };
        }
        taken
    }

    fn clear_from(&mut self, first: usize) {
        self.scopes[first..].iter_mut().for_each(String::clear);
    }
}

/// The name without braces: `{auth_authen}` and `auth_authen` are one macro.
fn bare(name: &str) -> &str {
    let inner = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'));
    inner.unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(macros: &mut Macros, stage: Stage, pairs: &[&str]) {
        let packed = Strings::pack(pairs);
        macros.set(
            stage,
            Strings::new(&packed).expect("packed strings end in NUL"),
        );
    }

    #[test]
    fn braces_do_not_matter() {
        let mut macros = Macros::default();
        set(
            &mut macros,
            Stage::Mail,
            &["i", "4X", "{auth_authen}", "ana"],
        );
        for name in ["i", "{i}", "auth_authen", "{auth_authen}"] {
            assert!(macros.get(name).is_some(), "{name}");
        }
        assert_eq!(macros.get("auth_type"), None);
    }

    #[test]
    fn an_empty_value_is_a_value() {
        let mut macros = Macros::default();
        set(&mut macros, Stage::Mail, &["a", "", "b", "2"]);
        assert_eq!((macros.get("a"), macros.get("b")), (Some(""), Some("2")));
    }

    #[test]
    fn the_value_sent_last_is_found() {
        let mut macros = Macros::default();
        set(&mut macros, Stage::Connect, &["i", "outer"]);
        set(&mut macros, Stage::EndOfMessage, &["i", "inner"]);
        set(&mut macros, Stage::Mail, &["j", "mx"]);
        assert_eq!(macros.get("i"), Some("inner"));
    }

    #[test]
    fn a_message_does_not_see_the_macros_of_the_one_before() {
        let mut macros = Macros::default();
        set(&mut macros, Stage::Helo, &["tls_version", "TLSv1.3"]);
        set(&mut macros, Stage::Mail, &["auth_authen", "ana"]);
        macros.begin_message();
        set(&mut macros, Stage::Rcpt, &["i", "4X"]);
        // No abort in between and no bundle of its own.
        macros.begin_message();
        assert_eq!(macros.get("auth_authen"), None);
        assert_eq!(macros.get("i"), None);
        assert_eq!(macros.get("tls_version"), Some("TLSv1.3"));
    }

    #[test]
    fn the_bundle_for_mail_survives_its_mail() {
        let mut macros = Macros::default();
        set(&mut macros, Stage::Mail, &["i", "4X"]);
        macros.begin_message();
        let taken = macros.take_for_message();
        assert_eq!(taken.get("i"), Some("4X"));
        assert_eq!(macros.get("i"), None);
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced() {
        let mut macros = Macros::default();
        let pairs = Strings::new(b"i\0a\xff\0").expect("ends in NUL");
        macros.set(Stage::Mail, pairs);
        assert_eq!(macros.get("i"), Some("a\u{fffd}"));
    }
}
