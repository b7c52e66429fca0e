//! Code pages of Windows, and symbol fonts, which have symbols in place of letters.

use std::borrow::Cow;

use encoding_rs as e;

/// The encoding of text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Page {
    Encoding(&'static e::Encoding),
    /// ASCII, and these characters above it.
    Upper(&'static str),
    Symbols(SymbolFont),
}

/// A font whose bytes are symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SymbolFont {
    Symbol,
    Wingdings,
    /// Any other.
    Other,
}

const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
                     └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

const CP850: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐\
                     └┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒõÕµþÞÚÛÙýÝ¯´\u{ad}±‗¾¶§÷¸°¨·¹³²■\u{a0}";

/// The font Symbol from 0x20 on.
const SYMBOL_LOW: &str = " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_\u{203e}\
                          αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼";

/// The font Symbol from 0xA0 on; U+FFFD is the Apple logo, which has no character.
const SYMBOL_HIGH: &str = "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓\
                           ◊〈®©™∑⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪\u{fffd}〉∫⌠⎮⌡⎞⎟⎠⎤⎥⎦⎫⎬⎭";

/// The symbols of the font Wingdings that lists and signatures use.
const WINGDINGS: &[(u8, char)] = &[
    (b' ', ' '),
    (b'(', '☎'),
    (b')', '✆'),
    (b'*', '✉'),
    (b'J', '☺'),
    (b'K', '😐'),
    (b'L', '☹'),
    (b'l', '●'),
    (b'n', '■'),
    (b'o', '□'),
    (b'q', '❑'),
    (b'r', '❒'),
    (b's', '⬧'),
    (b't', '⧫'),
    (b'u', '◆'),
    (b'v', '❖'),
    (b'w', '⬥'),
    (0x9f, '•'),
    (0xa7, '▪'),
    (0xa8, '◻'),
    (0xd8, '➢'),
    (0xdf, '←'),
    (0xe0, '→'),
    (0xe8, '➔'),
    (0xf0, '⇨'),
    (0xfb, '✗'),
    (0xfc, '✔'),
    (0xfd, '☒'),
    (0xfe, '☑'),
];

impl Page {
    /// Returns the code page of this number; `None` if it is unknown.
    pub(super) fn numbered(number: u32) -> Option<Page> {
        Some(Page::Encoding(match number {
            437 => return Some(Page::Upper(CP437)),
            850 => return Some(Page::Upper(CP850)),
            // 0 is the system's own, which is this one on most systems.
            0 | 819 | 1252 | 28591 => e::WINDOWS_1252,
            866 => e::IBM866,
            874 => e::WINDOWS_874,
            932 | 10001 => e::SHIFT_JIS,
            936 | 10008 => e::GBK,
            949 | 10003 => e::EUC_KR,
            950 | 10002 => e::BIG5,
            1250 => e::WINDOWS_1250,
            1251 => e::WINDOWS_1251,
            1253 => e::WINDOWS_1253,
            1254 => e::WINDOWS_1254,
            1255 => e::WINDOWS_1255,
            1256 => e::WINDOWS_1256,
            1257 => e::WINDOWS_1257,
            1258 => e::WINDOWS_1258,
            10000 => e::MACINTOSH,
            10007 => e::X_MAC_CYRILLIC,
            20866 => e::KOI8_R,
            21866 => e::KOI8_U,
            28592 => e::ISO_8859_2,
            28595 => e::ISO_8859_5,
            28597 => e::ISO_8859_7,
            28605 => e::ISO_8859_15,
            54936 => e::GB18030,
            65001 => e::UTF_8,
            _ => return None,
        }))
    }

    /// Decodes bytes; `None` if one is undefined.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        match self {
            Page::Encoding(encoding) => {
                encoding.decode_without_bom_handling_and_without_replacement(bytes)
            }
            Page::Upper(upper) => {
                let upper = |byte: u8| upper.chars().nth(usize::from(byte) - 128);
                let text = bytes.iter().map(|&byte| match byte {
                    0..128 => Some(char::from(byte)),
                    _ => upper(byte),
                });
                text.collect::<Option<String>>().map(Cow::Owned)
            }
            Page::Symbols(font) => {
                let text = bytes.iter().map(|&byte| font.character(byte));
                text.collect::<Option<String>>().map(Cow::Owned)
            }
        }
    }
}

impl SymbolFont {
    /// Returns the Unicode character of a byte in this font.
    pub(super) fn character(self, byte: u8) -> Option<char> {
        let from = |table: &str, first: u8| {
            let sign = table.chars().nth(usize::from(byte.checked_sub(first)?));
            sign.filter(|&sign| sign != '\u{fffd}')
        };
        match (self, byte) {
            (_, 0..0x20) => Some(char::from(byte)),
            (SymbolFont::Symbol, 0..0xa0) => from(SYMBOL_LOW, 0x20),
            (SymbolFont::Symbol, _) => from(SYMBOL_HIGH, 0xa0),
            (SymbolFont::Wingdings, _) => {
                let found = WINGDINGS.iter().find(|(code, _)| *code == byte);
                found.map(|&(_, symbol)| symbol)
            }
            (SymbolFont::Other, 0x95 | 0xb7) => Some('•'),
            (SymbolFont::Other, 0..0x7f) => Some(char::from(byte)),
            (SymbolFont::Other, _) => None,
        }
    }

    /// Returns the symbol font of this name.
    pub(super) fn of_font(name: &str) -> SymbolFont {
        match name.trim().to_ascii_lowercase().as_str() {
            "symbol" => SymbolFont::Symbol,
            "wingdings" => SymbolFont::Wingdings,
            _ => SymbolFont::Other,
        }
    }
}

/// Returns the code page of a font's `\fcharset`; `None` if it is the document's.
pub(super) fn of_charset(charset: i32) -> Option<u32> {
    Some(match charset {
        0 => 1252,
        77 => 10000,
        78 => 10001,
        79 => 10003,
        80 => 10008,
        81 => 10002,
        83 => 10005,
        84 => 10004,
        85 => 10006,
        86 => 10081,
        87 => 10021,
        88 => 10029,
        89 => 10007,
        128 => 932,
        129 => 949,
        130 => 1361,
        134 => 936,
        136 => 950,
        161 => 1253,
        162 => 1254,
        163 => 1258,
        177 => 1255,
        178 => 1256,
        186 => 1257,
        204 => 1251,
        222 => 874,
        238 => 1250,
        254 => 437,
        255 => 850,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_whole() {
        assert_eq!(CP437.chars().count(), 128);
        assert_eq!(CP850.chars().count(), 128);
        assert_eq!(SYMBOL_LOW.chars().count(), 95);
        assert_eq!(SYMBOL_HIGH.chars().count(), 95);
        assert_eq!(SymbolFont::Symbol.character(0xb7), Some('•'));
        assert_eq!(SymbolFont::Symbol.character(0xd3), Some('©'));
        assert_eq!(SymbolFont::Symbol.character(0xe5), Some('∑'));
        assert_eq!(SymbolFont::Symbol.character(0xfe), Some('⎭'));
        assert_eq!(SymbolFont::Symbol.character(b'z'), Some('ζ'));
        assert_eq!(SymbolFont::Symbol.character(0xf0), None);
        assert_eq!(SymbolFont::Symbol.character(0x80), None);
    }
}
