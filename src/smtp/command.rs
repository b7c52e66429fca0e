//! The commands of a client (RFC 5321 section 4.1.1 and its extensions).
//!
//! Promises: strict. A line that two servers could read in two ways is [`Command::Malformed`];
//! parsed values are as written, without normalization. The line itself stays with the caller, who
//! forwards that, never the parsed values.

use std::fmt;

use bytes::Bytes;

/// A command line of a client.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// EHLO with the client's name or address literal.
    Ehlo(String),
    /// HELO with the client's name.
    Helo(String),
    /// MAIL.
    Mail {
        /// The reverse path without its angle brackets; empty for the null one.
        path: String,
        /// ESMTP parameters, `KEYWORD` or `KEYWORD=value`.
        params: Vec<String>,
    },
    /// RCPT.
    Rcpt {
        /// The forward path without its angle brackets, never empty. May have a source route (RFC
        /// 5321 appendix C).
        path: String,
        /// ESMTP parameters, `KEYWORD` or `KEYWORD=value`.
        params: Vec<String>,
    },
    /// DATA.
    Data,
    /// BDAT (RFC 3030): a chunk follows the line, whatever the reply.
    Bdat {
        /// The size of the chunk in bytes.
        bytes: u64,
        /// Whether it is the last chunk of the message.
        last: bool,
    },
    /// RSET.
    Rset,
    /// NOOP with any argument.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY with any argument.
    Vrfy,
    /// EXPN with any argument.
    Expn,
    /// HELP with any argument.
    Help,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth {
        /// The SASL mechanism.
        mechanism: String,
        /// The initial response in base64; `=` is an empty one.
        initial: Option<String>,
    },
    /// Postfix's XCLIENT: names in uppercase, values decoded, empty if unknown.
    Xclient(Vec<(String, String)>),
    /// Postfix's XFORWARD: names in uppercase, values decoded, empty if unknown.
    Xforward(Vec<(String, String)>),
    /// Any other command.
    Unknown,
    /// A known command with an invalid argument, or a line that is not UTF-8 or has a control
    /// character.
    Malformed,
}

impl Command {
    /// Parses a line without its CRLF.
    pub fn parse(line: &[u8]) -> Command {
        match std::str::from_utf8(line) {
            // Printable characters only (RFC 5321 section 4.1.2), above all no CR, LF or NUL.
            Ok(line) if !line.contains(|c: char| c.is_ascii_control()) => {
                parse(line).unwrap_or(Command::Malformed)
            }
            _ => Command::Malformed,
        }
    }
}

/// Parses a line; `None` if an argument is invalid.
fn parse(line: &str) -> Option<Command> {
    // Trailing white space is ignored (RFC 5321 section 4.1.1).
    let line = line.trim_end_matches(' ');
    let (verb, argument) = match line.split_once(' ') {
        Some((verb, argument)) => (verb, Some(argument)),
        None => (line, None),
    };
    let alone = |command| argument.is_none().then_some(command);
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => Some(Command::Ehlo(word(argument?)?)),
        "HELO" => Some(Command::Helo(word(argument?)?)),
        "MAIL" => {
            let (path, params) = path(argument?, "FROM:")?;
            Some(Command::Mail { path, params })
        }
        "RCPT" => {
            let (path, params) = path(argument?, "TO:")?;
            (!path.is_empty()).then_some(Command::Rcpt { path, params })
        }
        "DATA" => alone(Command::Data),
        "BDAT" => chunk(argument?),
        "RSET" => alone(Command::Rset),
        "NOOP" => Some(Command::Noop),
        "QUIT" => alone(Command::Quit),
        "VRFY" => Some(Command::Vrfy),
        "EXPN" => Some(Command::Expn),
        "HELP" => Some(Command::Help),
        "STARTTLS" => alone(Command::StartTls),
        "AUTH" => auth(argument?),
        "XCLIENT" => Some(Command::Xclient(attributes(argument?)?)),
        "XFORWARD" => Some(Command::Xforward(attributes(argument?)?)),
        _ => Some(Command::Unknown),
    }
}

/// Parses an argument of exactly one word.
fn word(argument: &str) -> Option<String> {
    (!argument.is_empty() && !argument.contains(' ')).then(|| argument.to_owned())
}

/// Parses `FROM:<path> PARAM…`. Many clients add spaces after the colon or omit the brackets.
fn path(argument: &str, keyword: &str) -> Option<(String, Vec<String>)> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_start_matches(' ');
    let (path, rest) = match rest.strip_prefix('<') {
        Some(rest) => {
            let (path, rest) = rest.split_at(path_end(rest)?);
            (path, &rest[1..])
        }
        None => {
            let (path, rest) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
            is_plain_path(path).then_some((path, rest))?
        }
    };
    let params = match rest {
        "" => Vec::new(),
        params => {
            let words = params.strip_prefix(' ')?.split(' ');
            words
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect()
        }
    };
    let sound = params.iter().all(|param| is_param(param));
    sound.then(|| (path.to_owned(), params))
}

/// Whether a path without brackets is unambiguous: atoms, optionally with a domain or an address
/// literal.
fn is_plain_path(path: &str) -> bool {
    let is_atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let is_literal = |domain: &str| {
        let inside = domain.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        inside.is_some_and(|it| {
            it.chars()
                .all(|c| c.is_ascii_alphanumeric() || ".:".contains(c))
        })
    };
    let (local, domain) = match path.split_once('@') {
        Some((local, domain)) => (local, Some(domain)),
        None => (path, None),
    };
    let is_domain = |domain: &str| !domain.is_empty() && domain.chars().all(is_atom);
    !local.is_empty()
        && local.chars().all(is_atom)
        && domain.is_none_or(|domain| is_domain(domain) || is_literal(domain))
}

/// Adds missing angle brackets to the path of a parsed MAIL or RCPT line, so that the forwarded
/// line conforms to the RFC.
pub fn add_brackets(line: &Bytes) -> Bytes {
    let Some(colon) = memchr::memchr(b':', line) else {
        return line.clone();
    };
    let (head, rest) = line.split_at(colon + 1);
    let rest = rest.trim_ascii_start();
    if rest.starts_with(b"<") {
        return line.clone();
    }
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let (path, params) = rest.split_at(end);
    Bytes::from([head, b"<", path, b">", params].concat())
}

/// Whether a word is `KEYWORD` or `KEYWORD=value` (RFC 5321 section 4.1.2). The value may be
/// anything, even empty: its extension defines it.
fn is_param(word: &str) -> bool {
    let keyword = word.split_once('=').map_or(word, |(keyword, _)| keyword);
    keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Returns the offset of the `>` that ends a path, the first outside a quoted string. `None` if a
/// less strict server might see another end: after spaces, `<` and backslashes outside a quoted
/// string, or a quoted string that is only a part of a word.
fn path_end(path: &str) -> Option<usize> {
    let (mut quoted, mut before) = (false, '<');
    let mut bytes = path.char_indices();
    while let Some((at, c)) = bytes.next() {
        match c {
            '\\' if quoted => drop(bytes.next()?),
            '"' if quoted => {
                if !matches!(path[at + 1..].chars().next()?, '@' | '.' | '>') {
                    return None;
                }
                quoted = false;
            }
            _ if quoted => {}
            '"' if matches!(before, '<' | '.' | ':') => quoted = true,
            '>' => return Some(at),
            '"' | ' ' | '<' | '\\' => return None,
            _ => {}
        }
        before = c;
    }
    None
}

/// Parses `SIZE` or `SIZE LAST`.
fn chunk(argument: &str) -> Option<Command> {
    let (size, last) = match argument.split_once(' ') {
        Some((size, last)) => (size, Some(last)),
        None => (argument, None),
    };
    if last.is_some_and(|last| !last.eq_ignore_ascii_case("LAST")) {
        return None;
    }
    // The number parser would also accept a sign.
    let digits = size.bytes().all(|byte| byte.is_ascii_digit());
    Some(Command::Bdat {
        bytes: size.parse().ok().filter(|_| digits)?,
        last: last.is_some(),
    })
}

/// Parses `MECHANISM` or `MECHANISM RESPONSE`.
fn auth(argument: &str) -> Option<Command> {
    let mut words = argument.split(' ');
    let mechanism = words.next()?;
    let initial = words.next().map(str::to_owned);
    // RFC 4422 section 3.1; some clients write lowercase.
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let sound = (1..=20).contains(&mechanism.len()) && mechanism.bytes().all(sound);
    (sound && words.next().is_none() && initial.as_deref() != Some("")).then(|| Command::Auth {
        mechanism: mechanism.to_owned(),
        initial,
    })
}

/// Parses `NAME=value…` with values in xtext.
fn attributes(argument: &str) -> Option<Vec<(String, String)>> {
    let words = argument.split(' ').filter(|word| !word.is_empty());
    let attributes: Option<Vec<_>> = words
        .map(|word| {
            let (name, value) = word.split_once('=')?;
            let unknown = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"];
            let value = match unknown
                .iter()
                .any(|unknown| value.eq_ignore_ascii_case(unknown))
            {
                true => String::new(),
                false => from_xtext(value)?,
            };
            let letters = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
            letters.then(|| (name.to_ascii_uppercase(), value))
        })
        .collect();
    attributes.filter(|attributes| !attributes.is_empty())
}

/// Decodes xtext (RFC 3461 section 4): `+` and two uppercase hexadecimal digits are a byte. UTF-8
/// may appear unencoded (RFC 6533 section 3). `None` also if the decoded text has a control
/// character.
fn from_xtext(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('+');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
        let byte = u8::from_str_radix(digits, 16).ok();
        bytes.push(byte.filter(|_| digits.bytes().all(is_digit))?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let decoded = String::from_utf8(bytes).ok()?;
    (!text.contains('=') && !decoded.contains(char::is_control)).then_some(decoded)
}

/// Omits the initial response, which contains a password.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let envelope = |f: &mut fmt::Formatter<'_>, verb, path: &String, params: &Vec<String>| {
            f.debug_struct(verb)
                .field("path", path)
                .field("params", params)
                .finish()
        };
        match self {
            Command::Ehlo(name) => f.debug_tuple("Ehlo").field(name).finish(),
            Command::Helo(name) => f.debug_tuple("Helo").field(name).finish(),
            Command::Mail { path, params } => envelope(f, "Mail", path, params),
            Command::Rcpt { path, params } => envelope(f, "Rcpt", path, params),
            Command::Data => f.write_str("Data"),
            Command::Bdat { bytes, last } => f
                .debug_struct("Bdat")
                .field("bytes", bytes)
                .field("last", last)
                .finish(),
            Command::Rset => f.write_str("Rset"),
            Command::Noop => f.write_str("Noop"),
            Command::Quit => f.write_str("Quit"),
            Command::Vrfy => f.write_str("Vrfy"),
            Command::Expn => f.write_str("Expn"),
            Command::Help => f.write_str("Help"),
            Command::StartTls => f.write_str("StartTls"),
            Command::Auth { mechanism, .. } => f
                .debug_struct("Auth")
                .field("mechanism", mechanism)
                .finish_non_exhaustive(),
            Command::Xclient(attributes) => f.debug_tuple("Xclient").field(attributes).finish(),
            Command::Xforward(attributes) => f.debug_tuple("Xforward").field(attributes).finish(),
            Command::Unknown => f.write_str("Unknown"),
            Command::Malformed => f.write_str("Malformed"),
        }
    }
}

#[cfg(test)]
mod tests;
