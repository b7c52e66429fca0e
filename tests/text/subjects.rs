//! Subjects as people's programs write them, and what an independent reader makes of them.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use copyist::mail::Message;
use encoding_rs::Encoding;

const SUBJECTS: usize = 5000;

/// Every encoding of encoding_rs that mail can be in, with letters of its own.
const CHARSETS: [(&str, &str); 40] = [
    ("utf-8", "Grüße жизнь 日本語 😀 €"),
    ("big5", "中文郵件測試"),
    ("euc-jp", "日本語メールかな"),
    ("euc-kr", "한국어메일"),
    ("gb18030", "中文邮件😀€"),
    ("gbk", "中文邮件测试"),
    ("gb2312", "中文邮件测试"),
    ("ibm866", "Привет мир"),
    ("iso-2022-jp", "日本語メール件名"),
    ("iso-8859-1", "Grüße à"),
    ("iso-8859-2", "Žluťoučký kůň"),
    ("iso-8859-3", "ĉĝĥĵŝŭ"),
    ("iso-8859-4", "āēģī"),
    ("iso-8859-5", "Привет"),
    ("iso-8859-6", "مرحبا"),
    ("iso-8859-7", "Γειά"),
    ("iso-8859-8", "שלום"),
    ("iso-8859-8-i", "שלום"),
    ("iso-8859-10", "āēģī"),
    ("iso-8859-13", "Āčęėįšųūž"),
    ("iso-8859-14", "ŵŷẁ"),
    ("iso-8859-15", "€ œuvre"),
    ("iso-8859-16", "ășț"),
    ("koi8-r", "Привет"),
    ("koi8-u", "Привіт ґ"),
    ("macintosh", "Grüße"),
    ("shift_jis", "日本語メール"),
    ("windows-874", "สวัสดี"),
    ("windows-1250", "Žluťoučký"),
    ("windows-1251", "Привет"),
    ("windows-1252", "Grüße € “x”"),
    ("windows-1253", "Γειά"),
    ("windows-1254", "ığüş"),
    ("windows-1255", "שלום"),
    ("windows-1256", "مرحبا"),
    ("windows-1257", "Āčęė"),
    ("windows-1258", "đơn ư ₫"),
    ("x-mac-cyrillic", "Привет ж"),
    ("utf-16be", "Grüße жизнь 日本語 😀"),
    ("utf-16le", "Grüße жизнь 日本語 😀"),
];

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }

    fn one<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

fn encoded_word(dice: &mut Dice, charset: &str, bytes: &[u8]) -> String {
    let charset = match dice.below(3) {
        0 => charset.to_uppercase(),
        1 => format!("{charset}*en"),
        _ => charset.to_owned(),
    };
    match dice.below(2) {
        0 => format!("=?{charset}?B?{}?=", STANDARD.encode(bytes)),
        _ => {
            let mut text = String::new();
            for &byte in bytes {
                match byte {
                    b' ' => text.push('_'),
                    b if b.is_ascii_alphanumeric() => text.push(char::from(b)),
                    b => write!(text, "={b:02X}").expect("written"),
                }
            }
            format!("=?{charset}?q?{text}?=")
        }
    }
}

/// The value of a Subject field: plain words, raw bytes and encoded words, split and folded
/// anywhere.
fn subject(dice: &mut Dice) -> Vec<u8> {
    let mut value: Vec<u8> = b" ".to_vec();
    for _ in 0..=dice.below(4) {
        match dice.below(6) {
            0 => value.extend_from_slice(
                dice.one(&["Re:", "offer  4711", "a=b?", "=? x", "(x)"])
                    .as_bytes(),
            ),
            1 => value.extend_from_slice("Grüße ж".as_bytes()),
            2 => value.extend_from_slice(b"caf\xe9 \xff"),
            _ => {
                let (charset, letters) = *dice.one(&CHARSETS);
                let encoding = Encoding::for_label(charset.as_bytes()).expect("a charset");
                // What encoding_rs reads and does not write.
                let utf16 = letters.encode_utf16();
                let bytes = match charset {
                    "utf-16be" => utf16.flat_map(u16::to_be_bytes).collect(),
                    "utf-16le" => utf16.flat_map(u16::to_le_bytes).collect(),
                    _ => encoding.encode(letters).0.into_owned(),
                };
                // Words end anywhere: within characters, and within what a shift leads to.
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let length = 1 + dice.below(rest.len());
                    value
                        .extend_from_slice(encoded_word(dice, charset, &rest[..length]).as_bytes());
                    rest = &rest[length..];
                    if !rest.is_empty() {
                        value.extend_from_slice(
                            dice.one(&[" ", "\r\n ", "\r\n\t ", "  "]).as_bytes(),
                        );
                    }
                }
            }
        }
        value.extend_from_slice(dice.one(&[" ", "\r\n ", "\r\n\t", "  ", ""]).as_bytes());
    }
    value
}

#[test]
fn subjects_are_reported_as_an_independent_reader_reads_them() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let values: Vec<Vec<u8>> = (0..SUBJECTS).map(|_| subject(&mut dice)).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("values");
    let lines: Vec<String> = values.iter().map(|value| hex(value)).collect();
    fs::write(&file, lines.join("\n")).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/subjects/read.py");
    let output = Command::new("python3").arg(script).arg(&file).output();
    let output = output.expect("python3 runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let expected = String::from_utf8(output.stdout).expect("hexadecimal");
    let mut wrong = Vec::new();
    for (value, expected) in values.iter().zip(expected.lines()) {
        let message = [
            b"From: a@b.test\r\nSubject:",
            &value[..],
            b"\r\nSubject: another\r\n\r\n",
        ]
        .concat();
        let found = Message::new(Bytes::from(message)).summary().subject;
        if hex(found.as_bytes()) != expected {
            wrong.push(format!("{} is {found:?}", String::from_utf8_lossy(value)));
        }
    }
    assert_eq!(expected.lines().count(), SUBJECTS);
    assert!(
        wrong.is_empty(),
        "{} of {SUBJECTS}, for example {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(8)]
    );
    println!("{SUBJECTS} subjects, none read otherwise");
}
