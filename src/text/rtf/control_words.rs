//! The control words that mean something here, and those that may well be there and mean nothing.

/// What a control word does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Nothing to text.
    Nothing,
    Char(char),
    Ends(Ends),
    Turns(Trait),
    NoUnderline,
    Raises(Script),
    PlainText,
    PlainParagraph,
    Aligns(Align),
    RightToLeft(bool),
    Font,
    Size,
    Colour,
    Background,
    /// The document is in this code page.
    Page(u32),
    PageNumber,
    DefaultFont,
    Charset,
    FontPage,
    /// A part of a colour of the colour table: red, green, blue.
    Part(usize),
    Unicode,
    Fallback,
    /// What follows in the group is no text of the document.
    Into(Destination),
    Field,
    Instruction,
    Result,
    /// What follows is for readers that do not know [`Does::Instead`], which stands in it.
    Otherwise,
    Instead,
    /// What follows is text, even after `\*`.
    Text,
}

/// Where text goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Destination {
    #[default]
    Text,
    Nowhere,
    FontTable,
    ColourTable,
    /// What a field is to show.
    Instruction,
}

/// What comes to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Line,
    Paragraph,
    /// A page or section, and the paragraph that is open.
    Page,
    Cell,
    Row,
}

/// A trait of characters that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trait {
    Bold,
    Italic,
    Underline,
    Strike,
    Capitals,
    SmallCapitals,
    Hidden,
}

/// Raised or lowered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Script {
    #[default]
    Level,
    Super,
    Sub,
}

/// How a paragraph is aligned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Align {
    /// As its direction asks.
    #[default]
    Start,
    Left,
    Centre,
    Right,
    Justified,
}

const NOWHERE: Does = Does::Into(Destination::Nowhere);

/// In ASCII's order.
const WORDS: &[(&str, Does)] = &[
    ("ansi", Does::Page(1252)),
    ("ansicpg", Does::PageNumber),
    ("atnid", NOWHERE),
    ("author", NOWHERE),
    ("b", Does::Turns(Trait::Bold)),
    ("background", NOWHERE),
    ("blue", Does::Part(2)),
    ("bullet", Does::Char('•')),
    ("caps", Does::Turns(Trait::Capitals)),
    ("cb", Does::Background),
    ("cell", Does::Ends(Ends::Cell)),
    ("cf", Does::Colour),
    ("chcbpat", Does::Background),
    ("colorschememapping", NOWHERE),
    ("colortbl", Does::Into(Destination::ColourTable)),
    ("column", Does::Ends(Ends::Page)),
    ("comment", NOWHERE),
    ("cpg", Does::FontPage),
    ("datafield", NOWHERE),
    ("datastore", NOWHERE),
    ("deff", Does::DefaultFont),
    ("deleted", Does::Turns(Trait::Hidden)),
    ("do", NOWHERE),
    ("emdash", Does::Char('—')),
    ("emspace", Does::Char('\u{2003}')),
    ("endash", Does::Char('–')),
    ("enspace", Does::Char('\u{2002}')),
    ("f", Does::Font),
    ("falt", NOWHERE),
    ("fcharset", Does::Charset),
    ("field", Does::Field),
    ("filetbl", NOWHERE),
    ("fldinst", Does::Instruction),
    ("fldrslt", Does::Result),
    ("fontemb", NOWHERE),
    ("fonttbl", Does::Into(Destination::FontTable)),
    ("footer", NOWHERE),
    ("footerf", NOWHERE),
    ("footerl", NOWHERE),
    ("footerr", NOWHERE),
    ("footnote", NOWHERE),
    ("fs", Does::Size),
    ("ftncn", NOWHERE),
    ("ftnsep", NOWHERE),
    ("ftnsepc", NOWHERE),
    ("generator", NOWHERE),
    ("green", Does::Part(1)),
    ("header", NOWHERE),
    ("headerf", NOWHERE),
    ("headerl", NOWHERE),
    ("headerr", NOWHERE),
    ("highlight", Does::Background),
    ("i", Does::Turns(Trait::Italic)),
    ("info", NOWHERE),
    ("latentstyles", NOWHERE),
    ("ldblquote", Does::Char('“')),
    ("line", Does::Ends(Ends::Line)),
    ("listoverridetable", NOWHERE),
    ("listtable", NOWHERE),
    ("listtext", Does::Text),
    ("lquote", Does::Char('‘')),
    ("ltrmark", Does::Char('\u{200e}')),
    ("ltrpar", Does::RightToLeft(false)),
    ("mac", Does::Page(10000)),
    ("mmathPr", NOWHERE),
    ("nestcell", Does::Ends(Ends::Cell)),
    ("nestrow", Does::Ends(Ends::Row)),
    ("nesttableprops", Does::Text),
    ("nonesttables", NOWHERE),
    ("nonshppict", NOWHERE),
    ("nosupersub", Does::Raises(Script::Level)),
    ("objdata", NOWHERE),
    ("object", Does::Otherwise),
    ("page", Does::Ends(Ends::Page)),
    ("par", Does::Ends(Ends::Paragraph)),
    ("pard", Does::PlainParagraph),
    ("pc", Does::Page(437)),
    ("pca", Does::Page(850)),
    ("pgptbl", NOWHERE),
    ("pict", NOWHERE),
    ("plain", Does::PlainText),
    ("pntext", Does::Text),
    ("pntxta", NOWHERE),
    ("pntxtb", NOWHERE),
    ("qc", Does::Aligns(Align::Centre)),
    ("qd", Does::Aligns(Align::Justified)),
    ("qj", Does::Aligns(Align::Justified)),
    ("ql", Does::Aligns(Align::Left)),
    ("qmspace", Does::Char('\u{2005}')),
    ("qr", Does::Aligns(Align::Right)),
    ("rdblquote", Does::Char('”')),
    ("red", Does::Part(0)),
    ("result", Does::Instead),
    ("revtbl", NOWHERE),
    ("row", Does::Ends(Ends::Row)),
    ("rquote", Does::Char('’')),
    ("rsidtbl", NOWHERE),
    ("rtlmark", Does::Char('\u{200f}')),
    ("rtlpar", Does::RightToLeft(true)),
    ("rxe", NOWHERE),
    ("scaps", Does::Turns(Trait::SmallCapitals)),
    ("sect", Does::Ends(Ends::Page)),
    ("shpinst", Does::Otherwise),
    ("shprslt", NOWHERE),
    ("shptxt", Does::Instead),
    ("softline", Does::Ends(Ends::Line)),
    ("strike", Does::Turns(Trait::Strike)),
    ("striked", Does::Turns(Trait::Strike)),
    ("stylesheet", NOWHERE),
    ("sub", Does::Raises(Script::Sub)),
    ("super", Does::Raises(Script::Super)),
    ("tab", Does::Char('\t')),
    ("tc", NOWHERE),
    ("template", NOWHERE),
    ("themedata", NOWHERE),
    ("title", NOWHERE),
    ("txe", NOWHERE),
    ("u", Does::Unicode),
    ("uc", Does::Fallback),
    ("ud", Does::Instead),
    ("ul", Does::Turns(Trait::Underline)),
    ("uld", Does::Turns(Trait::Underline)),
    ("uldash", Does::Turns(Trait::Underline)),
    ("uldashd", Does::Turns(Trait::Underline)),
    ("uldashdd", Does::Turns(Trait::Underline)),
    ("uldb", Does::Turns(Trait::Underline)),
    ("ulhair", Does::Turns(Trait::Underline)),
    ("ulhwave", Does::Turns(Trait::Underline)),
    ("ulldash", Does::Turns(Trait::Underline)),
    ("ulnone", Does::NoUnderline),
    ("ulth", Does::Turns(Trait::Underline)),
    ("ulthd", Does::Turns(Trait::Underline)),
    ("ulthdash", Does::Turns(Trait::Underline)),
    ("ulthdashd", Does::Turns(Trait::Underline)),
    ("ulthdashdd", Does::Turns(Trait::Underline)),
    ("ulthldash", Does::Turns(Trait::Underline)),
    ("ululdbwave", Does::Turns(Trait::Underline)),
    ("ulw", Does::Turns(Trait::Underline)),
    ("ulwave", Does::Turns(Trait::Underline)),
    ("upr", Does::Otherwise),
    ("v", Does::Turns(Trait::Hidden)),
    ("wgrffmtfilter", NOWHERE),
    ("xe", NOWHERE),
    ("xmlnstbl", NOWHERE),
    ("zwbo", Does::Char('\u{200b}')),
    ("zwj", Does::Char('\u{200d}')),
    ("zwnbo", Does::Char('\u{2060}')),
    ("zwnj", Does::Char('\u{200c}')),
];

/// Words that people copy into bare text with what Word and WordPad wrote, and those that begin as
/// a word above does and are none. In ASCII's order.
const HARMLESS: &[&str] = &[
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

/// What a word does; `None` where it is not known.
pub(super) fn find(name: &str) -> Option<Does> {
    if let Ok(n) = WORDS.binary_search_by_key(&name, |(word, _)| word) {
        return WORDS.get(n).map(|&(_, does)| does);
    }
    HARMLESS.binary_search(&name).ok().map(|_| Does::Nothing)
}

/// Whether an unknown word is text that was to stand after a word: `\parThis`, `\linesecond`,
/// `\Par`.
pub(super) fn runs_on(name: &str) -> bool {
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
        assert!(HARMLESS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn words_of_the_specification_do_not_look_like_run_on_text() {
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
            assert!(find(word).is_some() || !runs_on(word), "{word}");
        }
    }
}
