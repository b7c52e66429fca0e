//! Lists of strings, as MAIL, RCPT and macros carry them: bytes that end in NUL, not necessarily
//! UTF-8.

use bytes::BytesMut;

use super::frame::put_string;

/// A list of strings, each terminated by a NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// Takes bytes that are empty or end in a NUL; `None` for any other.
    pub fn new(bytes: &'a [u8]) -> Option<Strings<'a>> {
        matches!(bytes.last(), None | Some(0)).then_some(Strings(bytes))
    }

    /// Encodes strings in the form that [`Strings::new`] takes. A NUL inside one cannot be encoded
    /// and is dropped.
    pub fn pack<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> BytesMut {
        let mut packed = BytesMut::new();
        for string in strings {
            put_string(&mut packed, string.as_ref());
        }
        packed
    }

    /// Returns the bytes, with the NULs.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Iterates over the strings in order, without their NULs.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let whole = self.0.strip_suffix(b"\0");
        whole
            .into_iter()
            .flat_map(|bytes| bytes.split(|byte| *byte == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_one_by_one() {
        let all = |bytes| -> Vec<&[u8]> {
            Strings::new(bytes)
                .expect("bytes that end in NUL")
                .iter()
                .collect()
        };
        assert_eq!(all(b""), Vec::<&[u8]>::new());
        assert_eq!(all(b"\0"), [b""]);
        assert_eq!(all(b"a\0\0b\0"), [&b"a"[..], b"", b"b"]);
        assert_eq!(Strings::new(b"a\0b"), None);
    }

    #[test]
    fn a_packed_string_cannot_pose_as_two() {
        assert_eq!(&Strings::pack(["a\0b", "c"])[..], b"ab\0c\0");
    }
}
