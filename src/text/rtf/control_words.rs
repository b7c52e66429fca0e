//! The control words that matter for text, and common ones that do not.

/// The effect of a control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// No effect on text.
    Nothing,
    Char(char),
    Break(Break),
    Toggle(CharProperty),
    NoUnderline,
    Script(Script),
    PlainText,
    PlainParagraph,
    Align(Align),
    RightToLeft(bool),
    Font,
    Size,
    Colour,
    Background,
    /// Sets the code page of the document.
    Page(u32),
    PageNumber,
    DefaultFont,
    Charset,
    FontPage,
    /// A component of a colour in the colour table: red, green, blue.
    Part(usize),
    Unicode,
    Fallback,
    /// The rest of the group goes to this destination.
    Destination(Destination),
    Field,
    Instruction,
    Result,
    /// The rest of the group is for readers that do not know [`Effect::Preferred`], which it
    /// contains.
    Alternative,
    Preferred,
    /// The rest of the group is text, even after `\*`.
    Text,
}

/// The destination of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Destination {
    #[default]
    Text,
    Nowhere,
    FontTable,
    ColourTable,
    /// The instruction of a field.
    Instruction,
}

/// A break in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    Line,
    Paragraph,
    /// A page or section, and the current paragraph.
    Page,
    Cell,
    Row,
}

/// A formatting of characters that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CharProperty {
    Bold,
    Italic,
    Underline,
    Strike,
    Capitals,
    SmallCapitals,
    Hidden,
}

/// Superscript or subscript.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Script {
    #[default]
    Level,
    Super,
    Sub,
}

/// The alignment of a paragraph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Align {
    /// The default of its direction.
    #[default]
    Start,
    Left,
    Centre,
    Right,
    Justified,
}

const NOWHERE: Effect = Effect::Destination(Destination::Nowhere);

/// In ASCII order.
const WORDS: &[(&str, Effect)] = &[
    ("ansi", Effect::Page(1252)),
    ("ansicpg", Effect::PageNumber),
    ("atnid", NOWHERE),
    ("author", NOWHERE),
    ("b", Effect::Toggle(CharProperty::Bold)),
    ("background", NOWHERE),
    ("blue", Effect::Part(2)),
    ("bullet", Effect::Char('•')),
    ("caps", Effect::Toggle(CharProperty::Capitals)),
    ("cb", Effect::Background),
    ("cell", Effect::Break(Break::Cell)),
    ("cf", Effect::Colour),
    ("chcbpat", Effect::Background),
    ("colorschememapping", NOWHERE),
    ("colortbl", Effect::Destination(Destination::ColourTable)),
    ("column", Effect::Break(Break::Page)),
    ("comment", NOWHERE),
    ("cpg", Effect::FontPage),
    ("datafield", NOWHERE),
    ("datastore", NOWHERE),
    ("deff", Effect::DefaultFont),
    ("deleted", Effect::Toggle(CharProperty::Hidden)),
    ("do", NOWHERE),
    ("emdash", Effect::Char('—')),
    ("emspace", Effect::Char('\u{2003}')),
    ("endash", Effect::Char('–')),
    ("enspace", Effect::Char('\u{2002}')),
    ("f", Effect::Font),
    ("falt", NOWHERE),
    ("fcharset", Effect::Charset),
    ("field", Effect::Field),
    ("filetbl", NOWHERE),
    ("fldinst", Effect::Instruction),
    ("fldrslt", Effect::Result),
    ("fontemb", NOWHERE),
    ("fonttbl", Effect::Destination(Destination::FontTable)),
    ("footer", NOWHERE),
    ("footerf", NOWHERE),
    ("footerl", NOWHERE),
    ("footerr", NOWHERE),
    ("footnote", NOWHERE),
    ("fs", Effect::Size),
    ("ftncn", NOWHERE),
    ("ftnsep", NOWHERE),
    ("ftnsepc", NOWHERE),
    ("generator", NOWHERE),
    ("green", Effect::Part(1)),
    ("header", NOWHERE),
    ("headerf", NOWHERE),
    ("headerl", NOWHERE),
    ("headerr", NOWHERE),
    ("highlight", Effect::Background),
    ("i", Effect::Toggle(CharProperty::Italic)),
    ("info", NOWHERE),
    ("latentstyles", NOWHERE),
    ("ldblquote", Effect::Char('“')),
    ("line", Effect::Break(Break::Line)),
    ("listoverridetable", NOWHERE),
    ("listtable", NOWHERE),
    ("listtext", Effect::Text),
    ("lquote", Effect::Char('‘')),
    ("ltrmark", Effect::Char('\u{200e}')),
    ("ltrpar", Effect::RightToLeft(false)),
    ("mac", Effect::Page(10000)),
    ("mmathPr", NOWHERE),
    ("nestcell", Effect::Break(Break::Cell)),
    ("nestrow", Effect::Break(Break::Row)),
    ("nesttableprops", Effect::Text),
    ("nonesttables", NOWHERE),
    ("nonshppict", NOWHERE),
    ("nosupersub", Effect::Script(Script::Level)),
    ("objdata", NOWHERE),
    ("object", Effect::Alternative),
    ("page", Effect::Break(Break::Page)),
    ("par", Effect::Break(Break::Paragraph)),
    ("pard", Effect::PlainParagraph),
    ("pc", Effect::Page(437)),
    ("pca", Effect::Page(850)),
    ("pgptbl", NOWHERE),
    ("pict", NOWHERE),
    ("plain", Effect::PlainText),
    ("pntext", Effect::Text),
    ("pntxta", NOWHERE),
    ("pntxtb", NOWHERE),
    ("qc", Effect::Align(Align::Centre)),
    ("qd", Effect::Align(Align::Justified)),
    ("qj", Effect::Align(Align::Justified)),
    ("ql", Effect::Align(Align::Left)),
    ("qmspace", Effect::Char('\u{2005}')),
    ("qr", Effect::Align(Align::Right)),
    ("rdblquote", Effect::Char('”')),
    ("red", Effect::Part(0)),
    ("result", Effect::Preferred),
    ("revtbl", NOWHERE),
    ("row", Effect::Break(Break::Row)),
    ("rquote", Effect::Char('’')),
    ("rsidtbl", NOWHERE),
    ("rtlmark", Effect::Char('\u{200f}')),
    ("rtlpar", Effect::RightToLeft(true)),
    ("rxe", NOWHERE),
    ("scaps", Effect::Toggle(CharProperty::SmallCapitals)),
    ("sect", Effect::Break(Break::Page)),
    ("shpinst", Effect::Alternative),
    ("shprslt", NOWHERE),
    ("shptxt", Effect::Preferred),
    ("softline", Effect::Break(Break::Line)),
    ("strike", Effect::Toggle(CharProperty::Strike)),
    ("striked", Effect::Toggle(CharProperty::Strike)),
    ("stylesheet", NOWHERE),
    ("sub", Effect::Script(Script::Sub)),
    ("super", Effect::Script(Script::Super)),
    ("tab", Effect::Char('\t')),
    ("tc", NOWHERE),
    ("template", NOWHERE),
    ("themedata", NOWHERE),
    ("title", NOWHERE),
    ("txe", NOWHERE),
    ("u", Effect::Unicode),
    ("uc", Effect::Fallback),
    ("ud", Effect::Preferred),
    ("ul", Effect::Toggle(CharProperty::Underline)),
    ("uld", Effect::Toggle(CharProperty::Underline)),
    ("uldash", Effect::Toggle(CharProperty::Underline)),
    ("uldashd", Effect::Toggle(CharProperty::Underline)),
    ("uldashdd", Effect::Toggle(CharProperty::Underline)),
    ("uldb", Effect::Toggle(CharProperty::Underline)),
    ("ulhair", Effect::Toggle(CharProperty::Underline)),
    ("ulhwave", Effect::Toggle(CharProperty::Underline)),
    ("ulldash", Effect::Toggle(CharProperty::Underline)),
    ("ulnone", Effect::NoUnderline),
    ("ulth", Effect::Toggle(CharProperty::Underline)),
    ("ulthd", Effect::Toggle(CharProperty::Underline)),
    ("ulthdash", Effect::Toggle(CharProperty::Underline)),
    ("ulthdashd", Effect::Toggle(CharProperty::Underline)),
    ("ulthdashdd", Effect::Toggle(CharProperty::Underline)),
    ("ulthldash", Effect::Toggle(CharProperty::Underline)),
    ("ululdbwave", Effect::Toggle(CharProperty::Underline)),
    ("ulw", Effect::Toggle(CharProperty::Underline)),
    ("ulwave", Effect::Toggle(CharProperty::Underline)),
    ("upr", Effect::Alternative),
    ("v", Effect::Toggle(CharProperty::Hidden)),
    ("wgrffmtfilter", NOWHERE),
    ("xe", NOWHERE),
    ("xmlnstbl", NOWHERE),
    ("zwbo", Effect::Char('\u{200b}')),
    ("zwj", Effect::Char('\u{200d}')),
    ("zwnbo", Effect::Char('\u{2060}')),
    ("zwnj", Effect::Char('\u{200c}')),
];

/// Control words without effect that people copy from Word and WordPad into bare text, and those that
/// begin like a word above. In ASCII order.
const IGNORED: &[&str] = &[
    "ab",
    "adeff",
    "adeflang",
    "adjustright",
    "af",
    "afs",
    "ai",
    "alang",
    "aspalpha",
    "aspnum",
    "cchs",
    "cellx",
    "cgrid",
    "charrsid",
    "cs",
    "dbch",
    "deflang",
    "deflangfe",
    "deftab",
    "dn",
    "expnd",
    "expndtw",
    "faauto",
    "fbidi",
    "fcs",
    "fdecor",
    "fi",
    "fmodern",
    "fnil",
    "formshade",
    "fprq",
    "froman",
    "fscript",
    "fswiss",
    "ftech",
    "hich",
    "hyphpar",
    "ilvl",
    "impr",
    "insrsid",
    "intbl",
    "itap",
    "keep",
    "keepn",
    "kerning",
    "lang",
    "langfe",
    "langfenp",
    "langnp",
    "li",
    "lin",
    "linebetcol",
    "linecont",
    "linemod",
    "lineppage",
    "linerestart",
    "linestart",
    "linestarts",
    "linex",
    "lisa",
    "lisb",
    "loch",
    "ls",
    "ltrch",
    "ltrrow",
    "ltrsect",
    "margb",
    "margl",
    "margr",
    "margt",
    "noproof",
    "nosectexpand",
    "nowidctlpar",
    "nowwrap",
    "outl",
    "outlinelevel",
    "paperh",
    "paperw",
    "parallel",
    "pararsid",
    "pardeftab",
    "pardirnatural",
    "partightenfactor",
    "pnstart",
    "ri",
    "rin",
    "rtf",
    "rtlch",
    "rtlrow",
    "s",
    "sa",
    "saauto",
    "sb",
    "sbauto",
    "sectd",
    "shad",
    "sl",
    "slmult",
    "tqc",
    "tqdec",
    "tqr",
    "trgaph",
    "trleft",
    "trowd",
    "trrh",
    "tx",
    "ulc",
    "up",
    "viewkind",
    "viewscale",
    "widctlpar",
    "widowctrl",
    "wrapdefault",
];

/// Returns the effect of a control word; `None` if it is unknown.
pub(super) fn find(name: &str) -> Option<Effect> {
    if let Ok(n) = WORDS.binary_search_by_key(&name, |(word, _)| word) {
        return WORDS.get(n).map(|&(_, effect)| effect);
    }
    IGNORED.binary_search(&name).ok().map(|_| Effect::Nothing)
}

/// Whether an unknown control word is a known one run together with text: `\parThis`,
/// `\linesecond`, `\Par`.
pub(super) fn has_text_attached(name: &str) -> bool {
    let before = name.find(|c: char| c.is_ascii_uppercase());
    let first = before.and_then(|end| name.get(..end)).unwrap_or_default();
    name.starts_with("par")
        || name.starts_with("line")
        || find(first).is_some()
        || (before.is_some() && find(&name.to_ascii_lowercase()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_in_order() {
        assert!(WORDS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(IGNORED.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn specified_words_do_not_look_like_attached_text() {
        for word in [
            "clFitText",
            "clftsWidth",
            "clwWidth",
            "trftsWidth",
            "trftsWidthA",
            "trwWidthB",
            "tdfrmtxtLeft",
            "ApplyBrkRules",
            "pararsid",
            "linex",
            "clNoWrap",
            "posnegx",
            "pgbrdropt",
            "trautofit",
        ] {
            assert!(find(word).is_some() || !has_text_attached(word), "{word}");
        }
    }
}
