//! The data of a registry value that is not a quoted string.

use encoding_rs::{UTF_16LE, WINDOWS_1252};

/// The format of an exported key, which determines the encoding of strings in `hex` data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// "Windows Registry Editor Version 5.00": UTF-16LE.
    Version5,
    /// "REGEDIT4": the ANSI code page.
    Regedit4,
}

/// The data of a registry value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// `REG_SZ` or `REG_EXPAND_SZ`.
    Text(String),
    /// `REG_MULTI_SZ`.
    Texts(Vec<String>),
    /// `REG_DWORD`, in either order of bytes.
    Number(u32),
    /// Anything else, by the number of its type.
    Bytes(u32),
}

impl Data {
    /// Returns the name of its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Data::Text(_) => "a string",
            Data::Texts(_) => "a list of strings",
            Data::Number(_) => "a number",
            Data::Bytes(3) => "binary data",
            Data::Bytes(_) => "data of another type",
        }
    }
}

const REG_SZ: u32 = 1;
const REG_EXPAND_SZ: u32 = 2;
const REG_BINARY: u32 = 3;
const REG_DWORD: u32 = 4;
const REG_DWORD_BIG_ENDIAN: u32 = 5;
const REG_MULTI_SZ: u32 = 7;

/// Parses `dword:80360000`, `hex:01,02` or `hex(7):61,00,…`; the error ends a sentence that begins
/// with it.
pub(super) fn data(text: &str, form: Form) -> Result<Data, &'static str> {
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("dword:") {
        let digits = digits.trim();
        let sound = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
        return u32::from_str_radix(digits, 16)
            .ok()
            .filter(|_| sound)
            .map(Data::Number)
            .ok_or("is not a dword of up to eight hexadecimal digits");
    }
    let (kind, bytes) = if let Some(bytes) = lower.strip_prefix("hex:") {
        (REG_BINARY, bytes)
    } else {
        lower
            .strip_prefix("hex(")
            .and_then(|rest| rest.split_once("):"))
            .and_then(|(kind, bytes)| Some((u32::from_str_radix(kind, 16).ok()?, bytes)))
            .ok_or("is not the data of a registry value")?
    };
    let bytes = self::bytes(bytes).ok_or("is not hex data: two-digit bytes separated by commas")?;
    match kind {
        REG_SZ | REG_EXPAND_SZ => Ok(Data::Text(decode(&bytes, form)?)),
        REG_MULTI_SZ => {
            let all = decode(&bytes, form)?;
            let texts = all.split('\0').filter(|text| !text.is_empty());
            Ok(Data::Texts(texts.map(str::to_owned).collect()))
        }
        REG_DWORD | REG_DWORD_BIG_ENDIAN => {
            let bytes: [u8; 4] = bytes
                .try_into()
                .map_err(|_| "is a dword without exactly four bytes")?;
            Ok(Data::Number(match kind {
                REG_DWORD => u32::from_le_bytes(bytes),
                _ => u32::from_be_bytes(bytes),
            }))
        }
        kind => Ok(Data::Bytes(kind)),
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().trim_end_matches(',');
    if text.is_empty() {
        return Some(Vec::new());
    }
    let byte = |text: &str| {
        let text = text.trim();
        let sound = matches!(text.len(), 1 | 2) && text.bytes().all(|c| c.is_ascii_hexdigit());
        sound.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    text.split(',').map(byte).collect()
}

/// Decodes a string, without trailing zeros.
fn decode(bytes: &[u8], form: Form) -> Result<String, &'static str> {
    let encoding = match form {
        Form::Version5 => UTF_16LE,
        Form::Regedit4 => WINDOWS_1252,
    };
    let text = encoding
        .decode_without_bom_handling_and_without_replacement(bytes)
        .ok_or("is text that is not UTF-16LE")?;
    Ok(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_every_type_is_read() {
        let text = |text: &str| Data::Text(text.into());
        for (written, wanted) in [
            ("dword:80360000", Data::Number(0x8036_0000)),
            ("DWORD: 1a", Data::Number(26)),
            ("hex(4):00,00,36,80", Data::Number(0x8036_0000)),
            ("hex(5):80,36,00,00", Data::Number(0x8036_0000)),
            ("hex(1):61,00,0d,00,0a,00,62,00,00,00", text("a\r\nb")),
            ("hex(2):61,00,fc,00,00,00", text("aü")),
            ("hex(2):", text("")),
            (
                "hex(7):61,00,00,00,62,00,00,00,00,00",
                Data::Texts(vec!["a".into(), "b".into()]),
            ),
            ("hex:1,02,ff,", Data::Bytes(3)),
            ("hex(b):01,00,00,00,00,00,00,00", Data::Bytes(11)),
        ] {
            assert_eq!(data(written, Form::Version5), Ok(wanted), "{written}");
        }
        let ansi = data("hex(2):61,fc,00", Form::Regedit4);
        assert_eq!(
            ansi,
            Ok(text("aü")),
            "REGEDIT4 has one byte for a character"
        );
    }

    #[test]
    fn invalid_data_is_rejected() {
        for (written, said) in [
            ("dword:", "eight hexadecimal digits"),
            ("dword:803600000", "eight hexadecimal digits"),
            ("dword:+1", "eight hexadecimal digits"),
            ("80360000", "not the data"),
            ("hex(x):00", "not the data"),
            ("hex:0g", "commas"),
            ("hex:001", "commas"),
            ("hex:00,,01", "commas"),
            ("hex(4):00", "four bytes"),
            ("hex(2):61", "UTF-16LE"),
        ] {
            let problem = data(written, Form::Version5).expect_err(written);
            assert!(problem.contains(said), "{written}: {problem}");
        }
    }
}
