//! Fields: the target of a hyperlink.

/// Returns the target of a field's instruction, if it is a hyperlink allowed in mail.
pub(super) fn hyperlink(instruction: &str) -> Option<String> {
    let mut rest = instruction;
    if !next(&mut rest)?.0.eq_ignore_ascii_case("hyperlink") {
        return None;
    }
    let (mut address, mut place) = (None, None);
    while let Some((argument, quoted)) = next(&mut rest) {
        match argument.as_str() {
            "\\l" if !quoted => place = next(&mut rest),
            "\\o" | "\\t" if !quoted => {
                next(&mut rest);
            }
            switch if !quoted && switch.starts_with('\\') => {}
            _ => address = address.or(Some(argument)),
        }
    }
    let mut address = address?;
    address.retain(|c| !c.is_control());
    let address = address.trim();
    // Other schemes run programs, or point to the administrator's own disk.
    if !["http:", "https:", "mailto:"]
        .iter()
        .any(|scheme| starts_with(address, scheme))
    {
        return None;
    }
    Some(match place {
        Some((place, _)) => format!("{address}#{place}"),
        None => address.to_owned(),
    })
}

/// Whether a link's text shows its target, so that the address need not follow.
pub(super) fn shows_address(text: &str, address: &str) -> bool {
    bare(text).eq_ignore_ascii_case(bare(address))
}

fn bare(address: &str) -> &str {
    let address = address.trim();
    let scheme = ["http://", "https://", "mailto:"]
        .iter()
        .find(|scheme| starts_with(address, scheme))
        .map_or(0, |scheme| scheme.len());
    let address = address.get(scheme..).unwrap_or(address);
    address.strip_suffix('/').unwrap_or(address)
}

fn starts_with(text: &str, begin: &str) -> bool {
    text.get(..begin.len())
        .is_some_and(|b| b.eq_ignore_ascii_case(begin))
}

/// Takes the next argument, and whether it was quoted. A backslash escapes a character in quotes.
fn next(rest: &mut &str) -> Option<(String, bool)> {
    let text = rest.trim_start();
    let mut argument = String::new();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (first, after) = text.split_at(end);
        *rest = after;
        return (!first.is_empty()).then(|| (first.to_owned(), false));
    };
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => argument.extend(chars.next()),
            c => argument.push(c),
        }
    }
    *rest = chars.as_str();
    Some((argument, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyperlinks_lead_to_the_web_or_a_mailbox() {
        for (instruction, leads) in [
            (
                r#"HYPERLINK "http://x.example/a?b=c" "#,
                Some("http://x.example/a?b=c"),
            ),
            (r"hyperlink https://x.example", Some("https://x.example")),
            (
                r#" HYPERLINK "mailto:a@b.example" \o "Write!" \t "_blank""#,
                Some("mailto:a@b.example"),
            ),
            (
                r#"HYPERLINK "http://x.example/" \l "top" \n"#,
                Some("http://x.example/#top"),
            ),
            (
                r#"HYPERLINK "http://x.example/" \h \o "a "#,
                Some("http://x.example/"),
            ),
            (r#"HYPERLINK \l "top""#, None),
            (r#"HYPERLINK "javascript:alert(1)""#, None),
            (r#"HYPERLINK "file:///c:/x""#, None),
            (r#"HYPERLINK "ftp://x""#, None),
            ("PAGE", None),
            ("HYPERLINK", None),
            ("", None),
        ] {
            assert_eq!(hyperlink(instruction).as_deref(), leads, "{instruction}");
        }
    }

    #[test]
    fn a_text_may_show_its_address() {
        assert!(shows_address("www.x.example", "http://www.x.example/"));
        assert!(shows_address(" A@b.example", "mailto:a@b.example"));
        assert!(!shows_address("our site", "http://www.x.example/"));
    }
}
