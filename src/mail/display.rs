//! Escaping of untrusted text for people: on a terminal, in the log, on a page.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns text in which every character is visible and none acts on the reader's terminal: control
/// characters, those without a width and those that change the writing direction are escaped
/// (`⟨U+202E⟩`). Line breaks are among them, so that text stays on its line.
pub fn escape_for_display(text: &str) -> Cow<'_, str> {
    if !text.contains(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if needs_escape(c) {
            // Writing to a String never fails.
            let _ = write!(shown, "⟨U+{:04X}⟩", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Whether a character is a control character, has no width or changes the direction of others.
/// Variation selectors are not escaped: emoji have them.
pub fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped_and_others_stay() {
        assert_eq!(
            escape_for_display("a\u{202e}gpj.exe\0\r\n\u{200b}ä\u{9b}31m"),
            "a⟨U+202E⟩gpj.exe⟨U+0000⟩⟨U+000D⟩⟨U+000A⟩⟨U+200B⟩ä⟨U+009B⟩31m"
        );
        assert!(matches!(
            escape_for_display("Größe ❤\u{fe0f} 大"),
            Cow::Borrowed(_)
        ));
    }
}
