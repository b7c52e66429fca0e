//! MAPI property tags of Exchange's directory → their attributes in Active Directory.
//!
//! "Custom Attribute 10" of Exchange 5.5 is `PR_EMS_AB_EXTENSION_ATTRIBUTE_10`, 0x8036 in
//! Emsabtag.h (KB Q258206), and `extensionAttribute10` in Active Directory ([MS-OXPROPS],
//! PidTagAddressBookExtensionAttribute1 to 15, whose identifiers these are; [MS-ADA1]
//! extensionAttribute1 to 15). The numbers are no sequence: 14 and 15 were added later.

/// The known identifiers, with their attributes.
const KNOWN: [(u16, &str); 15] = [
    (0x802D, "extensionAttribute1"),
    (0x802E, "extensionAttribute2"),
    (0x802F, "extensionAttribute3"),
    (0x8030, "extensionAttribute4"),
    (0x8031, "extensionAttribute5"),
    (0x8032, "extensionAttribute6"),
    (0x8033, "extensionAttribute7"),
    (0x8034, "extensionAttribute8"),
    (0x8035, "extensionAttribute9"),
    (0x8036, "extensionAttribute10"),
    (0x8C57, "extensionAttribute11"),
    (0x8C58, "extensionAttribute12"),
    (0x8C59, "extensionAttribute13"),
    (0x8C60, "extensionAttribute14"),
    (0x8C61, "extensionAttribute15"),
];

/// The types of a string property (PT_UNSPECIFIED, PT_STRING8, PT_UNICODE); the article uses the
/// first.
const TYPES: [u32; 3] = [0x0000, 0x001E, 0x001F];

/// Returns the attribute of a property tag: the identifier in the high word, and 0, or the type of a
/// string, in the low word. Fails with the end of a sentence that begins with the tag, and a remedy.
pub(super) fn attribute(tag: u32) -> Result<&'static str, (String, String)> {
    let (high, low) = (tag >> 16, tag & 0xFFFF);
    let known = |word: u32| KNOWN.iter().find(|(id, _)| u32::from(*id) == word);
    match (known(high), known(low)) {
        (Some((_, attribute)), _) if TYPES.contains(&low) => Ok(attribute),
        (Some((id, attribute)), _) => Err((
            format!("has {low:#06x} in its low word, which must be 0"),
            format!("write dword:{id:04x}0000 for {attribute}"),
        )),
        (None, Some((id, attribute))) if high == 0 => Err((
            "has the property in its low word instead of the high word".into(),
            format!("write dword:{id:04x}0000 for {attribute}"),
        )),
        _ => Err((
            "is not a known property".into(),
            format!("known properties: {}", list()),
        )),
    }
}

fn list() -> String {
    let all = KNOWN.map(|(id, attribute)| format!("{id:04x}0000 ({attribute})"));
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_attribute_10_is_0x8036_in_the_high_word() {
        assert_eq!(attribute(0x8036_0000), Ok("extensionAttribute10"));
        assert_eq!(attribute(0x8036_001E), Ok("extensionAttribute10"));
        assert_eq!(attribute(0x802D_0000), Ok("extensionAttribute1"));
        assert_eq!(attribute(0x8C59_001F), Ok("extensionAttribute13"));
        assert_eq!(attribute(0x8C60_0000), Ok("extensionAttribute14"));
    }

    #[test]
    fn every_custom_attribute_has_one_tag() {
        for (at, (_, attribute)) in KNOWN.iter().enumerate() {
            assert_eq!(*attribute, format!("extensionAttribute{}", at + 1));
        }
        assert!(KNOWN.is_sorted_by(|(a, _), (b, _)| a < b));
    }

    #[test]
    fn an_unknown_tag_is_an_error_that_lists_the_known_ones() {
        for tag in [0, 0x802C_0000, 0x8037_0000, 0x8C5A_0000, 0x3001_001E] {
            let (_, remedy) = attribute(tag).expect_err("unknown");
            for part in [
                "802d0000 (extensionAttribute1)",
                "8c610000 (extensionAttribute15)",
            ] {
                assert!(remedy.contains(part), "{tag:#x}: {remedy}");
            }
        }
    }

    #[test]
    fn a_tag_in_the_wrong_word_is_reported() {
        let (problem, remedy) = attribute(0x8036).expect_err("swapped");
        assert!(problem.contains("high word"), "{problem}");
        assert_eq!(remedy, "write dword:80360000 for extensionAttribute10");
        let (problem, _) = attribute(0x8036_0003).expect_err("a number's type");
        assert!(problem.contains("0x0003"), "{problem}");
    }
}
