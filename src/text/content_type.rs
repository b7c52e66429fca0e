//! Changes only the charset of a Content-Type field.

use std::ops::Range;

use super::structure::Mime;

/// Returns the value with this charset: the parameter is replaced in place, or added. A value
/// without a type becomes text/plain, its default (RFC 2045 section 5.2).
pub(super) fn with_charset(value: &str, charset: &str) -> String {
    let kind = value.split(';').next().unwrap_or_default();
    if !kind.contains('/') {
        return with_charset(&format!(" text/plain{}", &value[kind.len()..]), charset);
    }
    let (found, end) = charset_parameters(value);
    let Some(first) = found.first() else {
        let kept = value[..end].trim_end_matches(|c: char| c.is_ascii_whitespace() || c == ';');
        let rest = value[kept.len()..].trim_start_matches(';');
        return format!("{kept}; charset={charset}{rest}");
    };
    let mut text = value[..first.start].to_owned();
    text.push_str(&format!("charset={charset}"));
    let mut at = first.end;
    // Continuations (RFC 2231) and repetitions would contradict it.
    for more in &found[1..] {
        let between = value[at..more.start].trim_end();
        text.push_str(between.strip_suffix(';').unwrap_or(between));
        at = more.end;
    }
    text.push_str(&value[at..]);
    text
}

/// Whether mail clients find this charset in the changed value: they accept more as a parameter
/// than the grammar does.
pub(super) fn can_have_charset(value: &str, charset: &str) -> bool {
    let field = format!("Content-Type:{}\r\n", with_charset(value, charset));
    Mime::read(field.as_bytes()).charset.as_deref() == Some(charset)
}

/// Returns the ranges of charset parameters, name and value, and the end of the last parameter.
fn charset_parameters(value: &str) -> (Vec<Range<usize>>, usize) {
    let bytes = value.as_bytes();
    let mut found = Vec::new();
    let (mut start, mut quoted, mut depth, mut at) = (0, false, 0usize, 0);
    let mut last = value.trim_ascii_end().len();
    while at <= bytes.len() {
        match bytes.get(at) {
            Some(b'\\') if quoted || depth > 0 => at += 1,
            Some(b'"') if depth == 0 => quoted = !quoted,
            Some(b'(') if !quoted => {
                if depth == 0 && value[at..].trim_ascii_end().ends_with(')') {
                    last = last.min(at);
                }
                depth += 1;
            }
            Some(b')') if !quoted => depth = depth.saturating_sub(1),
            Some(b';') if !quoted && depth == 0 => {
                found.extend(charset_in(value, start..at));
                start = at + 1;
                last = value.trim_ascii_end().len();
            }
            None => found.extend(charset_in(value, start..bytes.len())),
            _ => {}
        }
        at += 1;
    }
    (found, last)
}

fn charset_in(value: &str, range: Range<usize>) -> Option<Range<usize>> {
    let text = &value[range.clone()];
    let trimmed = text.trim_ascii();
    let (name, _) = trimmed.split_once('=')?;
    let name = name.trim_ascii().to_ascii_lowercase();
    if name != "charset" && !name.starts_with("charset*") {
        return None;
    }
    let start = range.start + (text.len() - text.trim_ascii_start().len());
    Some(start..start + trimmed.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_charset_changes() {
        for (value, expected) in [
            (" text/plain", " text/plain; charset=utf-8"),
            (" text/plain;", " text/plain; charset=utf-8"),
            (" text/html; charset=us-ascii", " text/html; charset=utf-8"),
            (
                " text/html; charset=\"us-ascii\"; x=y",
                " text/html; charset=utf-8; x=y",
            ),
            (
                " text/plain;\r\n\tCharset = iso-8859-1 ;\r\n\tformat=flowed",
                " text/plain;\r\n\tcharset=utf-8 ;\r\n\tformat=flowed",
            ),
            (
                " text/plain; name=\"a;charset=b\"",
                " text/plain; name=\"a;charset=b\"; charset=utf-8",
            ),
            (
                " text/plain; charset*=us-ascii'en'utf-7",
                " text/plain; charset=utf-8",
            ),
            (
                " text/plain; charset*0=iso-; charset*1=8859-1; a=b",
                " text/plain; charset=utf-8; a=b",
            ),
            (" text", " text/plain; charset=utf-8"),
            (
                " BINARY;name=\"a\"",
                " text/plain;name=\"a\"; charset=utf-8",
            ),
            ("", " text/plain; charset=utf-8"),
            (
                " text/plain (just text)",
                " text/plain; charset=utf-8 (just text)",
            ),
        ] {
            assert_eq!(with_charset(value, "utf-8"), expected, "{value:?}");
        }
    }
}
