//! Fields: where a hyperlink leads.

/// Where the instruction of a field leads to, if it is a hyperlink that may stand in mail.
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
    // Others run programs, or lead into the administrator's own disk.
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

/// Whether a text says where its link leads, so that the address need not stand after it.
pub(super) fn says(text: &str, address: &str) -> bool {
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

/// The next argument, and whether it stood in quotation marks. A backslash in these stands before
/// what is meant.
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
    fn a_hyperlink_leads_to_the_web_or_to_a_mailbox() {
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
    fn a_text_may_say_where_it_leads() {
        assert!(says("www.x.example", "http://www.x.example/"));
        assert!(says(" A@b.example", "mailto:a@b.example"));
        assert!(!says("our site", "http://www.x.example/"));
    }
}
