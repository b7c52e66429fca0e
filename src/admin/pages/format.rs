//! Formatting of external text, times and numbers.

use std::time::{Duration, SystemTime};

use maud::{Markup, Render, html};

use crate::mail::{escape_for_display, rfc3339};

/// Text from outside: an address, a reply, a subject. Shown as it is, except that control,
/// invisible and bidirectional characters are named, and its writing direction is isolated.
pub(super) struct Untrusted<'a>(pub(super) &'a str);

impl Render for Untrusted<'_> {
    fn render(&self) -> Markup {
        html! { bdi { (escape_for_display(self.0)) } }
    }
}

/// Formats a time relative to now, with the full time as a tooltip.
pub(super) fn moment(at: SystemTime, now: SystemTime) -> Markup {
    let words = match (now.duration_since(at), at.duration_since(now)) {
        (Ok(ago), _) if ago < Duration::from_secs(1) => "now".to_owned(),
        (Ok(ago), _) => format!("{} ago", span(ago)),
        (_, Ok(ahead)) => format!("in {}", span(ahead)),
        _ => "now".to_owned(),
    };
    let full = rfc3339(at);
    html! { time datetime=(full) title=(full) { (words) } }
}

/// Formats a time in full, in UTC.
pub(super) fn date(at: SystemTime) -> Markup {
    let full = rfc3339(at);
    let words = full.replace('T', " ").replace('Z', " UTC");
    html! { time datetime=(full) { (words) } }
}

/// Formats a duration in its one or two largest units.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Formats a number with thousands separators.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Formats a count: "1 item", "2 items".
pub(super) fn count(many: u64, one: &str) -> String {
    match many {
        1 => format!("1 {one}"),
        many => format!("{} {one}s", number(many)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_named_and_markup_escaped() {
        let shown = Untrusted("<b>&\u{202e}gpj.exe\0\r\n\u{200b}ä")
            .render()
            .into_string();
        assert_eq!(
            shown,
            "<bdi>&lt;b&gt;&amp;⟨U+202E⟩gpj.exe⟨U+0000⟩⟨U+000D⟩⟨U+000A⟩⟨U+200B⟩ä</bdi>"
        );
    }

    #[test]
    fn spans_and_numbers_are_short() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3600, "1 h"),
            (3661, "1 h 1 min"),
            (86_400, "1 d"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
        for (many, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(many), expected);
        }
        assert_eq!(
            (count(1, "item"), count(0, "item")),
            ("1 item".into(), "0 items".into())
        );
    }
}
