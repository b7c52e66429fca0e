//! Macros: values that the MTA sends along with commands (`i` the queue ID, `{auth_authen}` the
//! user, …).
//!
//! The MTA sends a set of macros before a command, and the same name may come in several sets:
//! Sendmail knows the queue ID at MAIL, Postfix only from the second RCPT on. They are stored per
//! command, and the latest stage wins.
//!
//! Promises: the values of one message are never visible in the next one on the same connection.
//! Never fails; bytes that are not UTF-8 become U+FFFD. Postfix sends a set with every header
//! field, so storing one allocates nothing once its scope has the capacity.

use super::command::Stage;
use super::strings::Strings;

/// The macros in effect at one point of an SMTP session.
#[derive(Debug, Clone, Default)]
pub struct Macros {
    /// From the connection inwards; each scope has alternating names and values, each terminated by
    /// a NUL.
    scopes: [String; SCOPES],
    /// Whether the MAIL command for the MAIL scope has arrived: the next message must not see that
    /// scope.
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
    /// Returns the value of a macro, named with or without braces; of several, the latest.
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

    /// Stores the macros of one stage, in place of earlier ones for the same stage.
    pub(super) fn set(&mut self, stage: Stage, pairs: Strings<'_>) {
        let scope = match stage {
            Stage::Connect => CONNECT,
            Stage::Helo => HELO,
            Stage::Mail => MAIL,
            Stage::Rcpt => RCPT,
            Stage::Data => DATA,
            Stage::Header | Stage::EndOfHeader => HEADER,
            Stage::Body | Stage::EndOfMessage => END,
            // Not about a message.
            Stage::Unknown => return,
        };
        if scope == MAIL {
            self.mail_is_used = false;
        }
        let scope = &mut self.scopes[scope];
        scope.clear();
        scope.push_str(&String::from_utf8_lossy(pairs.bytes()));
    }

    /// Begins a message at MAIL: keeps the MAIL scope if it is new, and drops everything of an
    /// earlier message.
    pub(super) fn begin_message(&mut self) {
        let keep = if self.mail_is_used { MAIL } else { RCPT };
        self.clear_from(keep);
        self.mail_is_used = true;
    }

    /// Drops the macros of a message that ended in any way.
    pub(super) fn end_message(&mut self) {
        self.clear_from(MAIL);
    }

    /// Drops all macros at the end of the SMTP session.
    pub(super) fn end_connection(&mut self) {
        self.clear_from(CONNECT);
    }

    /// Returns the macros of the message that ends here, and removes those that belong to it alone.
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

/// Returns the name without braces: `{auth_authen}` and `auth_authen` are the same macro.
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
        // No abort in between, and no macros of its own.
        macros.begin_message();
        assert_eq!(macros.get("auth_authen"), None);
        assert_eq!(macros.get("i"), None);
        assert_eq!(macros.get("tls_version"), Some("TLSv1.3"));
    }

    #[test]
    fn the_macros_for_mail_survive_its_mail() {
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
