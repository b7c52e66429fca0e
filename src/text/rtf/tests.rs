use proptest::prelude::*;

use super::*;

fn plain(rtf: &str) -> String {
    convert(rtf.as_bytes()).plain
}

/// The paragraphs, without the element around them.
fn html(rtf: &str) -> String {
    let html = convert(rtf.as_bytes()).html;
    let inner = html
        .strip_prefix("<div>\n")
        .and_then(|html| html.strip_suffix("\n</div>"));
    inner.expect("one element around").to_owned()
}

fn convert(rtf: &[u8]) -> Rtf {
    let name = String::from_utf8_lossy(rtf);
    read(rtf).unwrap_or_else(|error| panic!("{name} {error}"))
}

fn error(rtf: &str) -> String {
    read(rtf.as_bytes()).expect_err(rtf).to_string()
}

#[test]
fn the_examples_of_the_article_are_converted() {
    let inbound = "This is the inbound prepended disclaimer. This is the second line.";
    assert_eq!(plain(inbound), inbound);
    assert_eq!(html(inbound), format!("<div>{inbound}</div>"));
    let appended = r"This is the inbound appended disclaimer.\par This is the second line.";
    assert_eq!(
        plain(appended),
        "This is the inbound appended disclaimer.\nThis is the second line."
    );
    assert_eq!(
        convert(appended.as_bytes()).html,
        "<div>\n<div>This is the inbound appended disclaimer.</div>\n<div>This is the second line.</div>\n</div>"
    );
}

#[test]
fn line_ends_in_bare_text_are_line_breaks() {
    for (bare, lines) in [
        (
            "This is the first line\r\nThis is the second line\r\n",
            "This is the first line\nThis is the second line",
        ),
        ("one\\par\ntwo\\line\nthree", "one\ntwo\nthree"),
        ("one\n\\par two", "one\ntwo"),
        ("one\\par\n\ntwo", "one\n\ntwo"),
        ("one\n\n\\par two", "one\n\ntwo"),
        ("one\n\n two", "one\n\n two"),
        ("\\pard\\b\nbold\\b0\nlight", "bold\nlight"),
        (
            "{\\colortbl;\n\\red0\\green0\\blue255;}\n{\\b one}\ntwo",
            "one\ntwo",
        ),
        ("\none", "\none"),
        ("one\\\ntwo\\\r\nthree", "one\ntwo\nthree"),
        ("a\\u8364\n?b", "a€\n?b"),
    ] {
        assert_eq!(plain(bare), lines, "{bare:?}");
    }
    assert_eq!(html("one\ntwo"), "<div>\none<br>\ntwo\n</div>");
}

#[test]
fn line_ends_in_documents_are_ignored() {
    assert_eq!(
        plain("{\\rtf1 one\r\n two\\par\r\nthr\nee\\\nfour}\r\n\0"),
        "one two\nthree\nfour"
    );
    assert_eq!(plain("\r\n {\\rtf1 one}"), "one");
    assert_eq!(plain("{\\rtf1\\ansicpg932 \\'83\n\\'5c}"), "ソ");
}

#[test]
fn control_words_end_with_a_space_or_a_non_letter() {
    assert_eq!(plain(r"\b0  a\b b\i-c\b1-d\fs-2 e"), " ab-c-de");
    assert_eq!(plain(r"{\rtf1\unheardof12 a\lang1033b}"), "ab");
}

#[test]
fn control_symbols_are_characters() {
    assert_eq!(plain(r"a\~b\_c\-d\\\{\}"), "a\u{a0}b-cd\\{}");
    assert_eq!(
        html(r"a\~b\_c\-d\\\{\}"),
        "<div>a&nbsp;b\u{2011}cd\\{}</div>"
    );
    assert_eq!(
        plain(r"\bullet\endash\emdash\lquote a\rquote\ldblquote b\rdblquote\enspace\emspace\tab c"),
        "•–—‘a’“b”\u{2002}\u{2003}\tc"
    );
    assert_eq!(plain("a\tb\\\tc"), "a\tb\tc");
    assert_eq!(html("a\tb"), "<div>a&emsp;b</div>");
}

#[test]
fn templates_keep_their_braces_quotation_marks_and_spaces() {
    let rtf = r#"{\rtf1 Tel. {\b \{\{ sender.tel|default("-")  \}\}}\line \{% if a %\}x"y}"#;
    assert_eq!(
        plain(rtf),
        "Tel. {{ sender.tel|default(\"-\")  }}\n{% if a %}x\"y"
    );
    assert_eq!(
        html(rtf),
        "<div>\nTel. <b>{{ sender.tel|default(\"-\")  }}</b><br>\n{% if a %}x\"y\n</div>"
    );
    assert_eq!(
        html(r"{\rtf1 \{{\insrsid1 \{}{\insrsid2  x \}}\}}"),
        "<div>{{ x }}</div>"
    );
}

#[test]
fn each_line_of_html_is_valid_by_itself() {
    assert_eq!(
        html(r"\b one\line two\line\line three\line\par four"),
        "<div>\n<b>one</b><br>\n<b>two</b><br>\n<br>\n<b>three</b><br>\n<br>\n</div>\n<div><b>four</b></div>"
    );
}

#[test]
fn formatting_is_nested_and_ends_with_its_group() {
    assert_eq!(
        html(
            r"a{\b b{\i c}\b0 d}\ul e\ulnone f\strike g\strike0\super h\sub i\nosupersub\ulwave j\ul0 k\b l\plain m"
        ),
        "<div>a<b>b</b><b><i>c</i></b>d<u>e</u>f<s>g</s><sup>h</sup><sub>i</sub><u>j</u>k<b>l</b>m</div>"
    );
    assert_eq!(
        html(r"{\caps a}{\scaps b}"),
        "<div><span style=\"text-transform:uppercase\">a</span><span style=\"font-variant:small-caps\">b</span></div>"
    );
}

#[test]
fn colours_and_sizes_are_styles() {
    let rtf = r"{\rtf1{\colortbl ;\red255\green0\blue16;\red0\green0\blue0;}a\cf1 b\cf0 c\fs16 d\fs17\highlight2 e\cf9\plain f}";
    assert_eq!(
        html(rtf),
        "<div>a<span style=\"color:#ff0010\">b</span>c<span style=\"font-size:8pt\">d</span>\
         <span style=\"background-color:#000000;font-size:8.5pt\">e</span>f</div>"
    );
}

#[test]
fn paragraphs_are_aligned_until_they_are_plain() {
    assert_eq!(
        html(r"{\rtf1\qc a\par b\par\pard c\par\qr d\par\qj e\par\pard\rtlpar f\par\ql g}"),
        "<div style=\"text-align:center\">a</div>\n<div style=\"text-align:center\">b</div>\n<div>c</div>\n\
         <div style=\"text-align:right\">d</div>\n<div style=\"text-align:justify\">e</div>\n\
         <div dir=\"rtl\">f</div>\n<div dir=\"rtl\" style=\"text-align:left\">g</div>"
    );
}

#[test]
fn html_is_escaped_and_keeps_spaces() {
    assert_eq!(html(r#"<a&"b">"#), "<div>&lt;a&amp;&quot;b&quot;&gt;</div>");
    assert_eq!(html(r" a  b{\b  c}"), "<div>&nbsp;a &nbsp;b<b> c</b></div>");
}

#[test]
fn empty_paragraphs_are_removed_only_at_the_end() {
    let rtf = r"{\rtf1\par a\par\par b\line\par  \par\pard\par}";
    assert_eq!(plain(rtf), "\na\n\nb");
    assert_eq!(
        html(rtf),
        "<div><br></div>\n<div>a</div>\n<div><br></div>\n<div>b</div>"
    );
}

#[test]
fn pages_and_sections_end_the_paragraph() {
    assert_eq!(plain(r"a\page b\par\page c\sect d"), "a\nb\nc\nd");
}

#[test]
fn rows_of_tables_are_lines() {
    let rtf =
        r"{\rtf1\trowd\cellx100\cellx200 a\cell b\cell\row\trowd c\cell\cell d\cell\row after\par}";
    assert_eq!(plain(rtf), "a\tb\nc\t\td\nafter");
    assert_eq!(
        html(rtf),
        "<div>a&emsp;b</div>\n<div>c&emsp;&emsp;d</div>\n<div>after</div>"
    );
}

#[test]
fn bytes_are_in_the_code_page_of_the_document() {
    for (rtf, text) in [
        (r"\'e9\'80", "é€"),
        (r"{\rtf1\ansi\ansicpg1251 \'c6}", "Ж"),
        (r"{\rtf1\ansi\ansicpg0 \'e9}", "é"),
        (r"{\rtf1\mac \'8e}", "é"),
        (r"{\rtf1\pc \'82}", "é"),
        (r"{\rtf1\pca \'9b}", "ø"),
        (r"{\rtf1\ansicpg65001 \'c3\'a9}", "é"),
    ] {
        assert_eq!(plain(rtf), text, "{rtf}");
    }
}

#[test]
fn two_byte_characters_may_be_literal_or_escaped() {
    assert_eq!(
        plain(r"\ansicpg932 \'93\'fa\'83\'5c\'83\\\'82\'a0"),
        "日ソソあ"
    );
    assert_eq!(plain(r"\ansicpg932 \'89p\'8c\'ea"), "英語");
    assert_eq!(plain(r"\ansicpg936 \'d6\'d0\'ce\'c4"), "中文");
    assert_eq!(plain(r"\ansicpg949 \'c7\'d1"), "한");
    assert_eq!(plain(r"\ansicpg950 \'a4\'a4"), "中");
    assert_eq!(
        convert(b"{\\rtf1\\ansicpg932 \x93\xfa\x82\xa0}").plain,
        "日あ"
    );
    assert!(error(r"\ansicpg932 a\'83").contains("line 1, column 13"));
}

#[test]
fn fonts_have_code_pages_of_their_own() {
    let rtf = r"{\rtf1\ansi\deff1{\fonttbl{\f0\fnil\fcharset0 Arial;}{\f1\fcharset204{\*\fname Arial;}Arial Cyr;}{\f2\fcharset128 MS;}{\f3\fcharset1 D;}{\f4\cpg1250\fcharset0 E;}}\'c6\f0\'c6{\f2\'82\'a0}\f3\'e9\f4\'9a\plain\'c6\f99\'e9}";
    assert_eq!(plain(rtf), "ЖÆあéšЖé");
}

#[test]
fn symbol_fonts_are_converted_to_unicode() {
    let fonts = r"{\rtf1\deff9{\fonttbl{\f1\fcharset2 Symbol;}{\f2\fcharset2 Wingdings;}{\f3\fcharset2 Webdings;}}";
    assert_eq!(
        plain(&format!(r"{fonts}\f1\'b7 a\f2\'a7(\f3\'b7\f0 b}}")),
        "• α▪☎•b"
    );
    assert_eq!(plain(&format!(r"{fonts}\f1\u-3913\'b7\f0\tab b}}")), "•\tb");
    assert!(error(&format!(r"{fonts}\f2\'81}}")).contains("symbol"));
}

#[test]
fn raw_bytes_are_utf8_if_all_are_valid() {
    assert_eq!(plain("{\\rtf1\\ansi Grüße 日本 \\'e9}"), "Grüße 日本 é");
    assert_eq!(convert(b"Gr\xfc\xdfe").plain, "Grüße");
    assert_eq!(convert("\u{feff}Grüße".as_bytes()).plain, "Grüße");
    let utf16: Vec<u8> = "\u{feff}{\\rtf1 ü}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(convert(&utf16).plain, "ü");
}

#[test]
fn unicode_replaces_its_fallback() {
    for (rtf, text) in [
        (r"\u8364?a", "€a"),
        (r"\u8364 ?a", "€a"),
        (r"\u8364\'80a", "€a"),
        (r"\u8364\{a", "€a"),
        (r"\u8220\ldblquote a", "“a"),
        (r"\uc0\u8364 a", "€a"),
        (r"\uc2\u26085\'93\'faa", "日a"),
        (r"{\uc0\u8364}\u8364?a", "€€a"),
        (r"{\uc3\u8364 ab}c", "€c"),
        (r"\u8364{a}", "€a"),
        (r"\u8364\par a", "€\na"),
        (r"\u8364\u8364 ?a", "€€a"),
        (r"\uc1\u-10179?\u-8704?", "😀"),
        (r"\u55357\u56832", "😀"),
        (r"\u128512?", "😀"),
        (r"\u-10179?a\u-8704?", "\u{fffd}a\u{fffd}"),
        (r"\u-3913?\u65534?\u7?\u-99999?", "\u{f0b7}\u{fffd}"),
        (r"a\u8232?b", "a\nb"),
        ("ü\\u8364 üa", "ü€a"),
        (r"\uc4\u8364\bin3 abcdefg", "€g"),
    ] {
        assert_eq!(plain(rtf), text, "{rtf}");
    }
}

#[test]
fn content_that_is_not_text_is_dropped() {
    for group in [
        r"{\fonttbl{\f0 Arial;}}",
        r"{\colortbl;\red1\green1\blue1;}",
        r"{\stylesheet{\s0 Normal;}{\*\cs1 \additive Default;}}",
        r"{\info{\title T}{\author A}}",
        r"{\header h\par}{\headerl h}{\footer f}{\footerr f}",
        r"{\pict\wmetafile8 0123ab}",
        r"{\*\shppict{\pict\pngblip \bin4 {{}\}}",
        r"{\nonshppict{\pict 00}}",
        r"{\footnote f}",
        r"{\*\generator Riched20 10;}",
        r"{\*\nobody knows this {\b x}}",
        r"{\*\cs10 x}",
        r"{\object\objemb{\*\objdata 0102}}",
        r"{\v hidden\par\'ff{\b x}}",
        r"{\deleted gone}",
        r"{\xe index}",
    ] {
        assert_eq!(plain(&format!(r"{{\rtf1 a{group}b}}")), "ab", "{group}");
        assert_eq!(plain(&format!("a{group}b")), "ab", "{group}");
    }
}

#[test]
fn the_preferred_alternative_is_used() {
    assert_eq!(
        plain(r"{\rtf1 a{\upr{\b ansi}{\*\ud{\b unicode}}}b}"),
        "aunicodeb"
    );
    assert_eq!(
        plain(
            r"{\rtf1{\shp{\*\shpinst\shpleft1{\sp{\sn a}{\sv 1}}{\shptxt box}}{\shprslt{\*\do x}y}}}"
        ),
        "box"
    );
    assert_eq!(
        plain(r"{\rtf1{\object{\*\objdata 00}{\result text}}}"),
        "text"
    );
    assert_eq!(
        plain(r"{\rtf1{\info{\upr{\title t}{\*\ud{\title t}}}}a}"),
        "a"
    );
}

#[test]
fn numbers_of_lists_are_text() {
    assert_eq!(
        plain(
            r"{\rtf1{\fonttbl{\f2\fcharset2 Symbol;}}{\pntext\f2\'B7\tab}{\*\pn\pnlvlblt\pnf2{\pntxtb\'B7}}one\par{\listtext\pard\plain 2.\tab}two}"
        ),
        "•\tone\n2.\ttwo"
    );
}

#[test]
fn hyperlinks_lead_to_the_web_and_are_named() {
    let link = |address: &str, text: &str| {
        format!(
            r#"{{\rtf1 a {{\field{{\*\fldinst{{HYPERLINK "{address}"}}}}{{\fldrslt {{\ul {text}}}}}}} b}}"#
        )
    };
    let site = link("http://x.example/?a=1&b=2", "our site");
    assert_eq!(plain(&site), "a our site <http://x.example/?a=1&b=2> b");
    assert_eq!(
        html(&site),
        "<div>a <a href=\"http://x.example/?a=1&amp;b=2\"><u>our site</u></a> b</div>"
    );
    let itself = link("http://x.example/", "x.example");
    assert_eq!(plain(&itself), "a x.example b");
    let script = link("javascript:x", "click");
    assert_eq!(
        (plain(&script), html(&script)),
        (
            "a click b".to_owned(),
            "<div>a <u>click</u> b</div>".to_owned()
        )
    );
    let mail = link("mailto:a@x.example", "a@x.example");
    assert_eq!(plain(&mail), "a a@x.example b");
    assert!(html(&mail).contains("<a href=\"mailto:a@x.example\">"));
    let quote = link("http://x/\\\\\"onclick=\\'22", "q");
    assert!(
        html(&quote).contains("<a href=\"http://x/&quot;onclick=\">"),
        "{}",
        html(&quote)
    );
    let template = link(r"mailto:\{\{ sender.mail \}\}", r"\{\{ sender.mail \}\}");
    assert_eq!(plain(&template), "a {{ sender.mail }} b");
    assert!(
        html(&template)
            .contains("<a href=\"mailto:{{ sender.mail }}\"><u>{{ sender.mail }}</u></a>")
    );
}

#[test]
fn links_across_lines_stay_valid() {
    let rtf = r#"{\rtf1{\field{\*\fldinst HYPERLINK "http://x"}{\fldrslt a\line b\par}}c}"#;
    assert_eq!(plain(rtf), "a\nb <http://x>\nc");
    assert_eq!(
        html(rtf),
        "<div>\n<a href=\"http://x\">a</a><br>\n<a href=\"http://x\">b</a>\n</div>\n<div>c</div>"
    );
}

#[test]
fn other_fields_are_their_results() {
    assert_eq!(
        plain(r"{\rtf1 Page {\field{\*\fldinst PAGE}{\fldrslt 1}}.}"),
        "Page 1."
    );
    assert_eq!(
        plain(r"{\rtf1{\field{\*\fldinst IF {\field{\*\fldinst X}{\fldrslt no}} }{\fldrslt yes}}}"),
        "yes"
    );
}

#[test]
fn errors_that_would_lose_text_have_a_position() {
    for (rtf, told) in [
        ("{\\rtf1 a\nb{\\b c}", "no } for the { at line 1, column 1"),
        ("a\nb{\\b c", "no } for the { at line 2, column 2"),
        ("a}b", "no { for the } at line 1, column 2"),
        ("{\\rtf1 a}}", "no { for the } at line 1, column 10"),
        ("{\\rtf1 a} b", "at line 1, column 11"),
        (
            "a\\'8",
            "\\' without two hexadecimal digits at line 1, column 2",
        ),
        ("a\\'xy", "two hexadecimal digits"),
        ("10 \\% a", "backslash at line 1, column 4"),
        ("a\\", "backslash at line 1, column 2"),
        ("\\* a", "backslash at line 1, column 1"),
        ("a\\*", "backslash"),
        ("ü\nü\\parThis is", "\\parThis at line 2, column 2"),
        ("a\\parthis", "\\parthis"),
        ("{\\rtf1 a\\parThis}", "\\parThis"),
        ("{\\rtf1 a\\linesecond}", "\\linesecond"),
        ("{\\rtf1 a\\bBold}", "\\bBold"),
        ("{\\rtf1 a\\Par b}", "\\Par"),
        ("\\\\server\\share", "\\share"),
        (
            "a\\par2. b",
            "a number directly after \\par at line 1, column 2",
        ),
        ("a\\header b", "\\header at line 1, column 2"),
        ("{\\rtf1\\fonttbl{\\f0 A;}a}", "\\fonttbl"),
        ("{\\rtf1 a{b\\*\\nobody c}}", "\\nobody"),
        ("a{\\*\\b \\bin9 c}", "\\bin at line 1, column 8"),
        ("{\\rtf1\\ansicpg708 \\'e9}", "code page 708"),
        (
            "{\\rtf1{\\fonttbl{\\f0\\fcharset130 J;}}\\f0 a\\'e9}",
            "code page 1361",
        ),
        ("{\\rtf1\\ansicpg932 \\'fd}", "code page does not define"),
    ] {
        let error = error(rtf);
        assert!(error.contains(told), "{rtf}: {error}");
    }
    for nothing in [
        "",
        " \r\n",
        "{\\rtf1}",
        "{\\rtf1\\par\\par}",
        "{\\v a}",
        "{\\info a}",
    ] {
        assert_eq!(read(nothing.as_bytes()), Err(RtfError::NoText), "{nothing}");
    }
}

#[test]
fn an_unknown_code_page_matters_only_if_needed() {
    assert_eq!(plain(r"{\rtf1\ansicpg708 a\u8364\'e9{\v \'e9}}"), "a€");
}

#[test]
fn characters_that_mail_cannot_carry_are_dropped() {
    assert_eq!(convert(b"{\\rtf1 a\0\x01\\'07\x7f\\'81b}").plain, "ab");
    assert_eq!(plain("a\u{feff}\u{fffe}\u{fdd0}\u{85}ü"), "aü");
}

mod documents;

#[test]
fn hostile_input_is_bounded() {
    let start = std::time::Instant::now();
    assert!(matches!(
        read("{".repeat(INPUT).as_bytes()),
        Err(RtfError::TooDeep(_))
    ));
    assert!(matches!(
        read(b"\\bin999999999 a"),
        Err(RtfError::Binary(_))
    ));
    assert!(matches!(
        read(&[b'a'; INPUT + 1]),
        Err(RtfError::TooLong(_))
    ));
    for bomb in hostile_inputs() {
        assert!(bomb.len() <= INPUT);
        if let Ok(rtf) = read(bomb.as_bytes()) {
            assert!(rtf.plain.len() <= OUTPUT && rtf.html.len() <= OUTPUT + 64);
        }
    }
    // All of them together take about a second, and some would take hours if they could.
    assert!(start.elapsed().as_secs() < 120);
}

/// Input that takes a careless parser too much time or memory.
fn hostile_inputs() -> Vec<String> {
    let fill = |unit: &str| unit.repeat(INPUT / unit.len());
    let within = |before: &str, unit: &str, after: &str| {
        let room = INPUT - before.len() - after.len();
        format!("{before}{}{after}", unit.repeat(room / unit.len()))
    };
    vec![
        fill("\\'ff"),
        fill("\\u-1?"),
        fill("\\u-10179"),
        fill("\\u8364"),
        fill("}"),
        fill("{}"),
        fill("\\par"),
        fill("\\page a"),
        fill("\n"),
        fill("\n{}"),
        within("a", "\n", "\\par b"),
        fill("\\cell a\\row"),
        fill("\\cell"),
        fill("\""),
        fill("\\b a\\b0 b"),
        fill("\\ul\\fs9\\cf1\\i a\\fs8 b"),
        fill("\\"),
        fill("\\*"),
        fill("{\\*\\x"),
        fill("{\\*\\x}"),
        fill("{\\field{\\*\\fldinst HYPERLINK http:x}{\\fldrslt x}}"),
        within(
            "{\\field{\\*\\fldinst HYPERLINK http:",
            "x",
            "}{\\fldrslt x}{\\fldrslt x}{\\fldrslt x}}",
        ),
        format!(
            "{{\\field{{\\*\\fldinst HYPERLINK http:{}}}{{\\fldrslt {}}}}}",
            "x".repeat(INPUT / 4),
            "x\\line ".repeat(INPUT / 14)
        ),
        format!(
            "{{\\field{{\\*\\fldinst HYPERLINK http:{}}}{}}}",
            "x".repeat(INPUT / 4),
            "{\\fldrslt x} ".repeat(INPUT / 26)
        ),
        within("\\uc999999999\\u1", "a", ""),
        within("{\\rtf1{\\fonttbl", "{\\f0 x;}", "}x}"),
        within(
            "{\\rtf1{\\fonttbl\\f0\\fcharset2 ",
            "x",
            "}\\f0 x\\b x\\b x}",
        ),
        within("{\\rtf1{\\colortbl", ";", "}x}"),
        format!(
            "{{\\fonttbl\\f0\\fcharset2 {}}}\\f0 {}",
            "x".repeat(INPUT / 2),
            "x\\b ".repeat(INPUT / 8 - 8)
        ),
        within("\\par", "1", ""),
        within("\\", "a", ""),
        fill("\\v a\\v0"),
    ]
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes);
    }

    #[test]
    fn fragments_of_rtf_never_panic(pieces in proptest::collection::vec(piece(), 0..60), header: bool) {
        let mut rtf = pieces.concat();
        if header {
            rtf = format!("{{\\rtf1 {rtf}}}");
        }
        check(rtf.as_bytes());
    }

    #[test]
    fn groups_are_valid_html(groups in proptest::collection::vec(group(), 1..8), header: bool) {
        let rtf = groups.concat();
        let rtf = if header { format!("{{\\rtf1 {rtf}x}}") } else { rtf + "x" };
        check(rtf.as_bytes());
    }

    #[test]
    fn text_comes_through(text in "[a-zA-Z0-9äöü€日 .,]{1,60}[a-z]") {
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{}?", unit.cast_signed())).collect();
        prop_assert_eq!(plain(&escaped), text.as_str());
        let document = format!("{{\\rtf1 {text}}}");
        prop_assert_eq!(plain(&document), text.as_str());
    }
}

const PIECES: &[&str] = &[
    "{",
    "}",
    "{",
    "}",
    "\\",
    "\\'",
    "\\'83",
    "\\'e9",
    "\\u8364",
    "\\u-10179",
    "\\u-8704",
    "?",
    " ",
    "a",
    "ü",
    "\n",
    "\r\n",
    "\\par ",
    "\\line ",
    "\\cell ",
    "\\row ",
    "\\b ",
    "\\b0 ",
    "\\ul ",
    "\\cf1 ",
    "\\fs20 ",
    "{\\fonttbl{\\f1\\fcharset128 X;}{\\f2\\fcharset2 Symbol;}}",
    "{\\colortbl;\\red255\\green0\\blue0;}",
    "\\f1 ",
    "\\f2 ",
    "{\\field{\\*\\fldinst HYPERLINK \"http://x\"}{\\fldrslt x}}",
    "{\\field",
    "{\\*\\fldinst ",
    "{\\fldrslt ",
    "HYPERLINK ",
    "\"http://x\"",
    "{\\upr",
    "{\\*\\ud",
    "\\bin3 ",
    "\\uc2 ",
    "\\qc ",
    "\\pard ",
    "\\plain ",
    "\\*",
    "{\\*\\x ",
    "\\v ",
    "\\ansicpg932 ",
    "\\ansicpg1 ",
    "<",
    "\"",
    "\t",
    "\0",
];

fn piece() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(PIECES)
}

/// Mostly valid RTF.
fn group() -> impl Strategy<Value = String> {
    let begins = |piece: &str| piece.starts_with('{') && !piece.ends_with('}');
    let ends = |piece: &str| piece == "}";
    let word = |piece: &str| !piece.contains('\\') || piece.ends_with([' ', '}']);
    let sound = PIECES.iter().copied().filter(|piece| {
        word(piece) && !begins(piece) && !ends(piece) && !piece.contains("ansicpg")
    });
    let piece = proptest::sample::select(sound.collect::<Vec<&str>>());
    let run = proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    run.prop_recursive(4, 30, 4, |inner| {
        proptest::collection::vec(inner, 1..4).prop_map(|groups| format!("{{{}}}", groups.concat()))
    })
}

/// Checks that hold for any input.
fn check(rtf: &[u8]) {
    let Ok(rtf) = read(rtf) else { return };
    assert!(!rtf.plain.trim().is_empty());
    for text in [&rtf.plain, &rtf.html] {
        assert!(!text.ends_with('\n'));
        assert!(
            text.chars()
                .all(|c| c == '\n' || c == '\t' || !c.is_control())
        );
    }
    // Each line of paragraphs closes what it opens.
    for line in rtf
        .html
        .lines()
        .filter(|line| !["<div>", "</div>"].contains(line))
    {
        let alone =
            line.starts_with("<div") && line.ends_with('>') && line.matches('<').count() == 1;
        if !alone {
            assert_eq!(open_tags(line), Vec::<&str>::new(), "{line}");
        }
    }
    assert_eq!(open_tags(&rtf.html), Vec::<&str>::new());
}

/// Returns the unclosed elements; panics if one is closed that was not opened last.
fn open_tags(html: &str) -> Vec<&str> {
    let mut open = Vec::new();
    for tag in html.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("tags end");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None => open.extend(tag.split(' ').next().filter(|&name| name != "br")),
        }
    }
    open
}
