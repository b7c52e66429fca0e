//! Parsing of map values as by Postfix: tokens of RFC 822, grouped into addresses.
//!
//! Promises: a value is parsed from its end to its beginning, as by Postfix, so that missing
//! commas, phrases and groups give the same addresses. An address is kept in internal form: without
//! quotes, the last `@` before the domain.

use std::borrow::Cow;

/// A token of an address list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// An atom or a quoted string, its quotes and backslashes removed.
    Word(String),
    /// The text between the brackets of an address literal.
    Literal(String),
    /// A special character.
    Operator(char),
    /// A comment in parentheses, without its text.
    Comment,
}

fn is_operator(c: char) -> bool {
    "|%!()<>@,;:\\\".[]".contains(c)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Splits a text into tokens.
pub(super) fn scan(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    // Collects up to a character for which `ends` holds.
    let collect = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
                   ends: &dyn Fn(char) -> bool| {
        let mut word = String::new();
        while let Some(&c) = rest.peek() {
            let mut c = c;
            if c == '\\' {
                rest.next();
                match rest.peek() {
                    Some(&next) => c = next,
                    None => break,
                }
            } else if ends(c) {
                break;
            }
            word.push(if is_space(c) { ' ' } else { c });
            rest.next();
        }
        word
    };
    while let Some(&c) = rest.peek() {
        match c {
            _ if is_space(c) => {
                rest.next();
            }
            '(' => {
                rest.next();
                let mut depth = 1;
                while let Some(c) = rest.next() {
                    match c {
                        '(' => depth += 1,
                        ')' => depth -= 1,
                        '\\' => {
                            rest.next();
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
                tokens.push(Token::Comment);
            }
            '[' => {
                rest.next();
                tokens.push(Token::Literal(collect(&mut rest, &|c| c == ']')));
                rest.next();
            }
            '"' => {
                rest.next();
                tokens.push(Token::Word(collect(&mut rest, &|c| c == '"')));
                rest.next();
            }
            '\\' => tokens.push(Token::Word(collect(&mut rest, &|c| {
                is_space(c) || is_operator(c)
            }))),
            _ if is_operator(c) => {
                rest.next();
                tokens.push(Token::Operator(c));
            }
            _ => tokens.push(Token::Word(collect(&mut rest, &|c| {
                is_space(c) || is_operator(c)
            }))),
        }
    }
    tokens
}

/// Returns the tokens of each address in a list, in the order of the list.
pub(super) fn addresses(text: &str) -> Vec<Vec<Token>> {
    let tokens = scan(text);
    let mut found: Vec<Vec<Token>> = Vec::new();
    // The current address, the last token first.
    let mut current: Vec<Token> = Vec::new();
    let mut word_may_come = true;
    let mut in_group = false;
    let mut at = tokens.len();
    fn flush(current: &mut Vec<Token>, found: &mut Vec<Vec<Token>>) {
        if !current.is_empty() {
            current.reverse();
            found.push(std::mem::take(current));
        }
    }
    while at > 0 {
        at -= 1;
        match &tokens[at] {
            Token::Comment => {}
            Token::Operator(';') => {
                flush(&mut current, &mut found);
                (in_group, word_may_come) = (true, true);
            }
            // The name of a group.
            Token::Operator(':') if in_group => {
                flush(&mut current, &mut found);
                while at > 0 && tokens[at - 1] != Token::Operator(',') {
                    at -= 1;
                }
            }
            // An address in angle brackets, and the phrase before it.
            Token::Operator('>') => {
                flush(&mut current, &mut found);
                while at > 0 && tokens[at - 1] != Token::Operator('<') {
                    at -= 1;
                    if tokens[at] != Token::Comment {
                        current.push(tokens[at].clone());
                    }
                }
                flush(&mut current, &mut found);
                at = at.saturating_sub(1);
                let ends = |token: &Token| matches!(token, Token::Operator('>' | ';' | ',' | ':'));
                while at > 0 && !ends(&tokens[at - 1]) {
                    at -= 1;
                }
                word_may_come = true;
            }
            word @ (Token::Word(_) | Token::Literal(_)) => {
                if !word_may_come {
                    flush(&mut current, &mut found);
                }
                current.push(word.clone());
                word_may_come = false;
            }
            Token::Operator(',') => {
                flush(&mut current, &mut found);
                word_may_come = true;
            }
            operator @ Token::Operator(_) => {
                current.push(operator.clone());
                word_may_come = true;
            }
        }
    }
    flush(&mut current, &mut found);
    found.reverse();
    found
}

/// Returns the text of an address in internal form.
pub(super) fn internal(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens {
        match token {
            Token::Word(word) => text.push_str(word),
            Token::Literal(literal) => {
                text.push('[');
                text.push_str(literal);
                text.push(']');
            }
            Token::Operator(operator) => text.push(*operator),
            Token::Comment => {}
        }
    }
    text
}

/// Rewrites an address like trivial-rewrite(8) and returns its internal form: a source route is
/// removed, `site!user` and `user%site` become `user@site`, a name without a domain gets the MTA's
/// own.
pub(super) fn rewrite(mut tokens: Vec<Token>, origin: &str) -> String {
    const AT: Token = Token::Operator('@');
    if matches!(tokens.as_slice(), [AT]) {
        return String::new();
    }
    if matches!(tokens.as_slice(), [Token::Word(word)] if word.is_empty()) {
        return String::new();
    }
    let colon = tokens
        .iter()
        .position(|token| *token == Token::Operator(':'));
    if let (Some(&AT), Some(colon)) = (tokens.first(), colon)
        && colon + 1 < tokens.len()
    {
        tokens.drain(..=colon);
    }
    if !tokens.contains(&AT) {
        if let Some(bang) = tokens
            .iter()
            .position(|token| *token == Token::Operator('!'))
        {
            let local = tokens.split_off(bang + 1);
            tokens.pop();
            let site = std::mem::replace(&mut tokens, local);
            tokens.push(AT);
            tokens.extend(site);
        } else if let Some(percent) =
            (tokens.iter()).rposition(|token| *token == Token::Operator('%'))
        {
            tokens[percent] = AT;
        } else if !origin.is_empty() {
            tokens.push(AT);
            tokens.extend(scan(origin));
        }
    }
    if let [.., before, Token::Operator('.')] = tokens.as_slice()
        && !matches!(before, Token::Operator('.' | '@'))
    {
        tokens.pop();
    }
    internal(&tokens)
}

/// Whether a local part needs no quotes: atoms with single dots between them.
pub(super) fn is_dot_string(local: &str) -> bool {
    let is_plain = |c: char| !c.is_ascii_control() && !" ()<>@,;:\\\"[]".contains(c);
    !local.is_empty()
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.chars().all(is_plain)
}

/// Returns the external form of an address, as in maps: its local part quoted if necessary. `at` is
/// the position of the `@`; without it, the whole text is the local part.
pub(super) fn external(text: &str, at: Option<usize>) -> Cow<'_, str> {
    let (local, domain) = text.split_at(at.unwrap_or(text.len()));
    if is_dot_string(local) {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::with_capacity(text.len() + 4);
    quoted.push('"');
    for c in local.chars() {
        if matches!(c, '"' | '\\' | '\r') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted.push_str(domain);
    Cow::Owned(quoted)
}

/// Folds case like Postfix with SMTPUTF8, which turns `ß` into `ss`.
pub(super) fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text),
        };
    }
    let mut folded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Its uppercase is that of another letter.
            '\u{131}' => folded.push(c),
            _ => folded.extend(c.to_uppercase().flat_map(char::to_lowercase)),
        }
    }
    Cow::Owned(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        let all = addresses(text).into_iter();
        all.map(|tokens| rewrite(tokens, "o.test")).collect()
    }

    #[test]
    fn lists_are_read_as_postfix_reads_them() {
        for (text, expected) in [
            ("a@x.test, b", vec!["a@x.test", "b@o.test"]),
            ("a b c@x.test", vec!["a@o.test", "b@o.test", "c@x.test"]),
            ("a@x.test b@y.test", vec!["a@x.test", "b@y.test"]),
            ("Dan D. <dan@x.test>, eve", vec!["dan@x.test", "eve@o.test"]),
            (
                "friends: a, b@x.test;, c",
                vec!["a@o.test", "b@x.test", "c@o.test"],
            ),
            ("dan (his (own) box) @ x.test", vec!["dan@x.test"]),
            ("\"a b\"@x.test", vec!["a b@x.test"]),
            ("\"a@b\"", vec!["a@b@o.test"]),
            (
                "\\dan, archive@x.test",
                vec!["dan@o.test", "archive@x.test"],
            ),
            ("site!dan", vec!["dan@site"]),
            ("dan%x.test", vec!["dan@x.test"]),
            ("dan%a.test%x.test", vec!["dan%a.test@x.test"]),
            ("dan%a.test@x.test", vec!["dan%a.test@x.test"]),
            ("@a.test,@b.test:dan@x.test", vec!["@a.test", "dan@x.test"]),
            ("<@a.test:dan@x.test>", vec!["dan@x.test"]),
            ("dan@x.test.", vec!["dan@x.test"]),
            ("dan@[192.0.2.1]", vec!["dan@[192.0.2.1]"]),
            ("", vec![]),
            (" , ,", vec![]),
        ] {
            assert_eq!(list(text), expected, "{text:?}");
        }
    }

    #[test]
    fn commands_files_and_includes_stay_whole() {
        let all: Vec<String> =
            addresses("\"|/bin/x -y z\", /var/mail/a, :include:/tmp/list, |prog")
                .iter()
                .map(|tokens| internal(tokens))
                .collect();
        assert_eq!(
            all,
            ["|/bin/x -y z", "/var/mail/a", ":include:/tmp/list", "|prog"]
        );
    }

    #[test]
    fn only_odd_local_parts_are_quoted() {
        for (text, expected) in [
            ("a.b@x.test", "a.b@x.test"),
            ("a b@x.test", "\"a b\"@x.test"),
            ("a@b@x.test", "\"a@b\"@x.test"),
            (".a@x.test", "\".a\"@x.test"),
            ("a\"b@x.test", "\"a\\\"b\"@x.test"),
            ("m\u{fc}ller@x.test", "m\u{fc}ller@x.test"),
        ] {
            assert_eq!(external(text, text.rfind('@')), expected);
        }
        assert_eq!(external("a b", None), "\"a b\"");
    }

    #[test]
    fn letters_are_folded() {
        assert_eq!(fold("Stra\u{df}e"), "strasse");
        assert_eq!(fold("\u{dc}ber"), "\u{fc}ber");
        assert_eq!(fold("\u{3a3}\u{3c2}"), "\u{3c3}\u{3c3}");
        assert!(matches!(fold("plain"), Cow::Borrowed("plain")));
    }
}
