//! HTML: the position of a text in a document, conversion from and to plain text, and protection of
//! a text from a document's styles.
//!
//! lol_html is used to find positions, never to write into a document: every byte of it stays
//! unchanged.

mod open_elements;
mod positions;
mod shield;
mod words;

pub(super) use positions::{append_position, end_position, prepend_position};
pub(super) use shield::shielded;
pub(super) use words::{to_plain, words};

/// Returns the content between the body's tags; everything if there are none.
pub(super) fn inner(html: &str) -> &str {
    let bytes = html.as_bytes();
    let Some(start) = prepend_position(bytes) else {
        return html.trim();
    };
    let end = append_position(bytes).map_or(html.len(), |place| place.at);
    html.get(start..end).unwrap_or(html).trim()
}

/// Converts plain text to HTML: the same lines, each in the direction of its own letters.
pub(super) fn from_plain(plain: &str) -> String {
    let lines: Vec<String> = plain.lines().map(escape).collect();
    format!("<div dir=\"auto\">{}</div>", lines.join("<br>\n"))
}

/// Escapes text for HTML.
pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the document with a text inserted at both positions.
    fn with_text(document: &str) -> String {
        let prepend = prepend_position(document.as_bytes()).expect("HTML");
        let append = append_position(document.as_bytes()).expect("HTML");
        format!(
            "{}[P]{}{}[A]{}",
            &document[..prepend],
            &document[prepend..append.at],
            append.ending,
            &document[append.at..]
        )
    }

    #[test]
    fn text_goes_inside_the_body_for_any_tags() {
        for (document, expected) in [
            (
                "<html><body>x</body></html>",
                "<html><body>[P]x[A]</body></html>",
            ),
            (
                "<HTML><BODY BGCOLOR=red >x</BODY ></HTML>\r\n",
                "<HTML><BODY BGCOLOR=red >[P]x[A]</BODY ></HTML>\r\n",
            ),
            ("x", "[P]x[A]"),
            ("", "[P][A]"),
            ("<!DOCTYPE html>\r\n<p>x", "<!DOCTYPE html>[P]\r\n<p>x[A]"),
            ("<html>x</html>", "<html>[P]x[A]</html>"),
            (
                "<html><head><title>t</title></head>x</html>",
                "<html><head><title>t</title></head>[P]x[A]</html>",
            ),
            ("x</body></html>", "[P]x[A]</body></html>"),
            ("x</html>\r\nfooter", "[P]x[A]</html>\r\nfooter"),
            (
                "<body>x<!-- </body> --></body>",
                "<body>[P]x<!-- </body> -->[A]</body>",
            ),
            (
                "<body>x<script>'</body>'</script></body>",
                "<body>[P]x<script>'</body>'</script>[A]</body>",
            ),
            (
                "<body>a</body><body>b</body>",
                "<body>[P]a</body><body>b[A]</body>",
            ),
            (
                "<body><svg><circle/></svg></body>",
                "<body>[P]<svg><circle/></svg>[A]</body>",
            ),
            ("<body>x", "<body>[P]x[A]"),
            ("\u{feff}x", "\u{feff}[P]x[A]"),
        ] {
            assert_eq!(with_text(document), expected);
        }
    }

    #[test]
    fn text_is_not_swallowed_by_unfinished_markup() {
        for (document, expected) in [
            (
                "<body>x<!-- y</body></html>",
                "<body>[P]x<!-- y</body></html>-->[A]",
            ),
            (
                "<body>x<a href=\"y</body>",
                "<body>[P]x<a href=\"y</body>\"></a>[A]",
            ),
            ("<body>x<a href='y", "<body>[P]x<a href='y'></a>[A]"),
            ("<body>x<b", "<body>[P]x<b>[A]"),
            ("<body>x<!--", "<body>[P]x<!---->[A]"),
            (
                "<body>x<textarea>y</body>",
                "<body>[P]x<textarea>y</body></textarea>[A]",
            ),
            ("<body>x<script>y", "<body>[P]x<script>y</script>[A]"),
            ("<style>y", "[P]<style>y</style>[A]"),
            ("<title>y", "[P]<title>y</title>[A]"),
            (
                "<noscript>x<style>y</noscript>",
                "[P]<noscript>x<style>y</noscript></style></noscript>[A]",
            ),
            ("<a title='\"><style>", "[P]<a title='\"><style>'></a>[A]"),
            ("<noframes>x<!--y", "[P]<noframes>x<!--y</noframes>[A]"),
        ] {
            assert_eq!(with_text(document), expected);
        }
    }

    #[test]
    fn text_before_precedes_the_first_visible_content() {
        for (document, expected) in [
            ("<p>x<div hidden><html><head></head><body>y", "[P]<p>x"),
            ("<table><tr><td>x</table><head></head>y", "[P]<table>"),
            ("x<html><body>y", "[P]x"),
            ("<!-- <body> --> <title><body></title><body>x", "<body>[P]x"),
            ("<head><script>'<body>'</script>x<body>", "</script>[P]x"),
            (
                "<head><style>a{}</style>\r\n<p>x</head><body>",
                "</style>[P]\r\n<p>",
            ),
            ("<head><p>x</p></head><body>y", "<head>[P]<p>"),
            ("<link><meta><base>x<body>", "<base>[P]x"),
            (
                "<head></head><title>t</title> <body class=a>x",
                "<body class=a>[P]x",
            ),
            ("<template><p>x<body>y", "[P]<template>"),
            (
                "<template><template></template></template><body>x",
                "<body>[P]x",
            ),
            (
                "<head><noscript><meta></noscript></head><body>x",
                "<body>[P]x",
            ),
            (
                "<head><noscript><p>x</noscript></head><body>y",
                "<head>[P]<noscript>",
            ),
            (
                "<head></head><noscript>x</noscript><body>y",
                "</head>[P]<noscript>",
            ),
            ("<plaintext>x<body>", "[P]<plaintext>"),
            ("<svg><title>x</title></svg><body>y", "[P]<svg>"),
            ("<p><body><frameset>", "[P]<p>"),
            ("<body><frameset>", "<body>[P]<frameset>"),
            ("<textarea><body></textarea><body>", "[P]<textarea>"),
        ] {
            let at = prepend_position(document.as_bytes()).expect("HTML");
            let found = format!("{}[P]{}", &document[..at], &document[at..]);
            assert!(found.contains(expected), "{found} has no {expected}");
        }
    }

    #[test]
    fn a_frameset_has_no_position_for_a_text() {
        for document in [
            "<html><frameset><frame></frameset></html>",
            "<head><title>t</title></head><frameset>",
            "<p><b></b><frameset>",
            "<div>\n<input type=hidden><frameset>",
        ] {
            assert_eq!(prepend_position(document.as_bytes()), None, "{document}");
            assert_eq!(append_position(document.as_bytes()), None, "{document}");
        }
        assert!(append_position(b"<p>x<frameset>").is_some());
    }

    #[test]
    fn text_after_is_outside_links_tables_and_hidden_elements() {
        for (document, expected) in [
            ("<a href=u>x", "</a>"),
            ("<div><a href=u>x</div>", "</a>"),
            ("<a>x<a>y</a>", ""),
            ("<a name=u><table><td><a href=u>x</a></table>", "</a>"),
            ("<a name=u><table><td><a href=u>x</table>", "</a></a>"),
            ("<table><tr><a href=u>x</body>", "</a></tr></table>"),
            ("<table><tr><td><table><td>x</table>", "</td></table>"),
            ("<div><table><td>x</div>", "</table>"),
            ("<table><td>x</table>", ""),
            ("<select><option>x<option>y", "</option></select>"),
            ("<svg><text>x", "</text></svg>"),
            ("<template>x", "</template>"),
            ("<noscript>x", "</noscript>"),
            ("<details><summary>x", "</summary></details>"),
            ("<video><ul><li><p>x<li>y", "</li></ul></video>"),
            ("<div><span style='Display : NONE'>x</div>", ""),
            ("<div style='display: none'>x</body>", "</div>"),
            ("<div hidden><b>x", "</b></div>"),
            ("<img style=display:none><br hidden>x", ""),
            ("</body><p>x", ""),
        ] {
            let place = append_position(document.as_bytes()).expect("HTML");
            assert_eq!(place.ending, expected, "{document}");
        }
        let last = append_position(b"</body><p>x").expect("HTML");
        assert_eq!(last.at, 11);
        assert_eq!(append_position("<svg>".repeat(300).as_bytes()), None);
    }

    #[test]
    fn words_are_the_visible_text() {
        for (html, expected) in [
            ("a<!---->b<!--->c<!-- x --!>d<!-- y -->e", "abcde"),
            ("<head><meta><body>x<style>y</style>z", "xz"),
            ("<title>t</title>x<script>y</script>", "x"),
            ("<noscript>x</noscript>", "x"),
            ("<template>x</template>y", "y"),
            ("<textarea>a &amp; b</textarea>", "a & b"),
            (
                "&#228;&#xE4;&auml;&auml &#150;&nbspx &nosuch; &",
                "ääää –\u{a0}x &nosuch; &",
            ),
            ("<td>a</td><td>b</td>", "a b"),
            ("<div>a</div>b<ul><li>c<li>d</ul>", "a\nb\nc\nd"),
            ("a\r\n  b<b>c</b> <i> d</i>", "a bc d"),
            ("a<br><br>b", "a\n\nb"),
        ] {
            assert_eq!(to_plain(html), expected, "{html}");
        }
    }

    #[test]
    fn a_shielded_text_keeps_its_own_style() {
        let found = shielded(
            "<p style=\"color:red; background:url('a;b')!important\">x<br><td bgcolor=blue width=9></td></p>",
        );
        for expected in [
            "<p style=\"all:revert!important;color:red;color:red!important;",
            ";background:url('a;b');background:url('a;b')!important\">x<br>",
            "all:revert!important;background-color:blue!important;width:9px!important",
        ] {
            assert!(found.contains(expected), "{found}");
        }
        let plain = shielded(&from_plain("a\nb"));
        assert!(plain.ends_with("\">a<br>\nb</span></div>"), "{plain}");
    }

    #[test]
    fn plain_and_html_convert_to_each_other() {
        assert_eq!(
            from_plain("a < b\n\nc"),
            "<div dir=\"auto\">a &lt; b<br>\n<br>\nc</div>"
        );
        assert_eq!(to_plain("<p>a &lt; b</p><p>c<br>d</p>"), "a < b\nc\nd");
        assert_eq!(
            inner("<html><head><title>t</title></head><body class=x><p>a</p></body></html>"),
            "<p>a</p>"
        );
        assert_eq!(inner("<p>a</p>"), "<p>a</p>");
    }
}
