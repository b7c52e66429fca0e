//! Addresses in MAIL and RCPT, as lenient MTAs parse them.

use crate::mail::{Address, AddressError};

/// Parses the path of MAIL FROM or RCPT TO. Text that is invalid by RFC 5321 is parsed like Postfix
/// with `strict_rfc821_envelopes = no`: comments and blanks are dropped, a backslash quotes, the
/// last of several `@` separates. An address without a domain is at `default_domain`.
pub fn parse_path(text: &str, default_domain: &str) -> Result<Address, AddressError> {
    match Address::parse_in(text, default_domain) {
        Err(error @ AddressError::Malformed(_)) => {
            parse_liberally(text, default_domain).ok_or(error)
        }
        read => read,
    }
}

/// A character, inside or outside of quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Plain(char),
    Quoted(char),
}

fn parse_liberally(text: &str, default_domain: &str) -> Option<Address> {
    let mut tokens = tokens(text)?;
    if let (Some(Token::Plain('<')), Some(Token::Plain('>'))) = (tokens.first(), tokens.last()) {
        tokens = tokens[1..tokens.len() - 1].to_vec();
    }
    let is = |token: &Token, c| *token == Token::Plain(c);
    if tokens.first().is_some_and(|first| is(first, '@')) {
        // A source route (RFC 5321 appendix C).
        let end = tokens.iter().rposition(|token| is(token, ':'))?;
        tokens.drain(..=end);
    }
    // These would begin another address.
    if tokens
        .iter()
        .any(|token| [',', ';', ':', '<', '>'].iter().any(|c| is(token, *c)))
        && !has_literal(&tokens)
    {
        return None;
    }
    let (local, domain) = match tokens.iter().rposition(|token| is(token, '@')) {
        Some(at) => (&tokens[..at], text_of(&tokens[at + 1..])),
        None => (&tokens[..], default_domain.to_owned()),
    };
    let domain = if domain.is_empty() {
        default_domain.to_owned()
    } else {
        domain
    };
    Address::quoted(&text_of(local), &domain)
}

/// Whether an address literal with colons follows the last `@`.
fn has_literal(tokens: &[Token]) -> bool {
    let at = tokens.iter().rposition(|token| *token == Token::Plain('@'));
    let plain = |token: Option<&Token>, c| token == Some(&Token::Plain(c));
    let Some(at) = at else { return false };
    let outside = tokens[..at].iter();
    plain(tokens.get(at + 1), '[')
        && plain(tokens.last(), ']')
        && !outside
            .into_iter()
            .any(|token| matches!(token, Token::Plain(',' | ';' | ':' | '<' | '>')))
}

fn text_of(tokens: &[Token]) -> String {
    let chars = tokens.iter().map(|token| match token {
        Token::Plain(c) | Token::Quoted(c) => *c,
    });
    chars.collect()
}

/// Splits a path into tokens; `None` if a quote, comment or backslash is unterminated.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let (mut is_quoted, mut comments) = (false, 0_usize);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let escaped = chars.next()?;
                if comments == 0 {
                    tokens.push(Token::Quoted(escaped));
                }
            }
            '(' if !is_quoted => comments += 1,
            ')' if comments > 0 => comments -= 1,
            _ if comments > 0 => {}
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => tokens.push(Token::Quoted(c)),
            ' ' | '\t' => {}
            _ => tokens.push(Token::Plain(c)),
        }
    }
    (!is_quoted && comments == 0).then_some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_paths_are_parsed_as_postfix_does() {
        for (written, read) in [
            ("dan@corp.test", "dan@corp.test"),
            ("dan", "dan@origin.test"),
            ("dan @corp.test", "dan@corp.test"),
            ("(x)dan@corp.test(y)", "dan@corp.test"),
            ("d\\an@corp.test", "dan@corp.test"),
            ("\"d\".an@corp.test", "d.an@corp.test"),
            ("ana\\ maria@corp.test", "\"ana maria\"@corp.test"),
            ("dan@corp.test@corp.test", "\"dan@corp.test\"@corp.test"),
            ("dan@(at)corp.test", "dan@corp.test"),
            ("@a.test:@b.test:dan@corp.test", "dan@corp.test"),
            ("dan@", "dan@origin.test"),
            ("d an@[IPv6:::1]", "dan@[ipv6:::1]"),
        ] {
            let address = parse_path(written, "origin.test");
            assert_eq!(
                address.map(|a| a.to_string()).as_deref(),
                Ok(read),
                "{written}"
            );
        }
        for bad in [
            "a@b.test, c@d.test",
            "a@b.test,c@d.test",
            "\"a@b.test",
            "@b.test",
            "<a@b.test> c",
        ] {
            assert!(parse_path(bad, "origin.test").is_err(), "{bad}");
        }
    }
}
