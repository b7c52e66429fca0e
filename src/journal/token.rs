//! Names that prove themselves: `copyist.ITEM.MAC` stands in the Message-ID and the ENVID of what
//! we send, so that a bounce can be recognized without a memory of what was sent.

use ring::rand::{SecureRandom, SystemRandom};

use super::key::Key;
use super::{ComposeError, ItemId};

const START: &str = "copyist.";
/// Bytes of a MAC kept in a token: 80 bits, 16 characters.
const MAC: usize = 10;
/// Characters of an item id, and of the MAC.
const PART: usize = 16;

/// Base32 of RFC 4648 in lowercase, without padding: survives whatever mail systems do to case, and
/// a double click selects it whole.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut count) = (0u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(ALPHABET[(bits >> count & 31) as usize]));
        }
    }
    if count > 0 {
        text.push(char::from(ALPHABET[(bits << (5 - count) & 31) as usize]));
    }
    text
}

/// 16 random characters.
pub(super) fn random_text() -> Result<String, ComposeError> {
    let mut bytes = [0; 10];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ComposeError::Random)?;
    Ok(base32(&bytes))
}

/// A new item id.
pub(super) fn new_id() -> Result<ItemId, ComposeError> {
    ItemId::parse(&random_text()?).ok_or(ComposeError::Random)
}

/// Who gets to see a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Journal and NDR mailboxes, and the relays on the way there. Notices about it come back to an
    /// NDR address.
    Journal,
    /// Anybody: it is mail. Its token names the item and proves nothing, or whoever got such a mail
    /// could write to NDR addresses.
    People,
}

/// The token of an item.
pub(super) fn token(key: &Key, id: &ItemId, audience: Audience) -> String {
    let purpose = match audience {
        Audience::Journal => PURPOSE,
        Audience::People => "token for people",
    };
    format!("{START}{id}.{}", mac(key, purpose, id.as_str()))
}

const PURPOSE: &str = "token";

fn mac(key: &Key, purpose: &str, id: &str) -> String {
    base32(&key.mac(purpose, &[id.as_bytes()]).as_ref()[..MAC])
}

/// The item that the first genuine token in `text` names.
pub(super) fn find(key: &Key, text: &[u8]) -> Option<ItemId> {
    memchr::memmem::find_iter(text, START).find_map(|at| {
        let rest = text.get(at + START.len()..at + START.len() + PART + 1 + PART)?;
        let rest = std::str::from_utf8(rest).ok()?.to_ascii_lowercase();
        let (id, given) = rest.split_once('.')?;
        let id = ItemId::parse(id)?;
        // Not compared in constant time: what an attacker could learn by timing guesses over SMTP
        // is how to send one bounce to the NDR mailbox.
        (mac(key, PURPOSE, id.as_str()) == given).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_rfc_4648() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"fo"), "mzxq");
    }

    #[test]
    fn only_genuine_tokens_are_found() {
        let key = Key::ephemeral().expect("a key");
        let id = new_id().expect("an id");
        let for_people = token(&key, &id, Audience::People);
        assert_eq!(find(&key, for_people.as_bytes()), None);
        let token = token(&key, &id, Audience::Journal);
        let text = format!("Original-Envelope-Id: copyist.no {token}\r\n");
        assert_eq!(find(&key, text.as_bytes()), Some(id.clone()));
        assert_eq!(
            find(
                &key,
                text.to_ascii_uppercase()
                    .replace("COPYIST", "copyist")
                    .as_bytes()
            ),
            Some(id)
        );
        let other = Key::ephemeral().expect("a key");
        assert_eq!(find(&other, text.as_bytes()), None);
        assert_eq!(find(&key, &token.as_bytes()[..token.len() - 1]), None);
    }
}
