//! Change stamps of objects, as set by their server. Pure.
//!
//! A value that vanishes although the stamp is unchanged was not removed: it is hidden from us.

/// The operational attributes that stamps are made of; each must be requested by name (RFC 4512
/// section 3.4).
pub(super) const ATTRIBUTES: [&str; 4] =
    ["entryCSN", "modifyTimestamp", "uSNChanged", "whenChanged"];

/// Adds the attributes of the stamp to those of a request.
pub(super) fn with_stamp_attributes(mut attributes: Vec<String>) -> Vec<String> {
    attributes.extend(ATTRIBUTES.map(str::to_owned));
    attributes
}

/// Returns the requested attributes without those of the stamp; `None` if no stamp was requested.
pub(super) fn without_stamp_attributes(asked: &[String]) -> Option<&[String]> {
    let (before, last) = asked.split_at(asked.len().checked_sub(ATTRIBUTES.len())?);
    last.iter().eq(ATTRIBUTES.iter()).then_some(before)
}

/// A change stamp. Kept as hashes, since there is one for each object in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    /// The server that `exact` belongs to; 0 if it is the same on all servers.
    pub(super) origin: u64,
    /// `entryCSN` or `uSNChanged`; 0 if neither was read.
    pub(super) exact: u64,
    /// `modifyTimestamp` or `whenChanged`; 0 if neither was read.
    pub(super) time: u64,
}

/// Result of comparing an object's stamp with an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StampComparison {
    /// The object was changed.
    Changed,
    /// The object was not changed.
    Unchanged,
    /// The stamps cannot be compared.
    Unknown,
}

impl Stamp {
    /// Extracts the stamp from the attributes that a server sent. Attributes that were requested
    /// themselves are kept.
    pub(super) fn take(
        attributes: &mut Vec<(String, Vec<String>)>,
        asked: &[String],
        server: &str,
    ) -> Stamp {
        let mut stamp = Stamp::default();
        attributes.retain(|(name, values)| {
            let number = ATTRIBUTES
                .iter()
                .position(|known| known.eq_ignore_ascii_case(name));
            let value = values.first().map_or(0, |value| fingerprint(value));
            match number {
                Some(0) => (stamp.origin, stamp.exact) = (0, value),
                Some(1) => stamp.time = value,
                Some(2) if stamp.exact == 0 => {
                    (stamp.origin, stamp.exact) = (fingerprint(server), value);
                }
                Some(3) if stamp.time == 0 => stamp.time = value,
                Some(_) => {}
                None => return true,
            }
            asked.iter().any(|asked| asked.eq_ignore_ascii_case(name))
        });
        stamp
    }

    /// Whether any part of the stamp was read.
    pub(super) fn is_known(self) -> bool {
        self.exact != 0 || self.time != 0
    }

    /// Compares the stamp with an earlier one. A stamp that can no longer be read is not a sign of
    /// a change.
    pub(super) fn compare_with(self, earlier: Stamp) -> StampComparison {
        if self.exact != 0 && earlier.exact != 0 && self.origin == earlier.origin {
            return StampComparison::of(self.exact, earlier.exact);
        }
        if self.time != 0 && earlier.time != 0 {
            return StampComparison::of(self.time, earlier.time);
        }
        match earlier.is_known() && !self.is_known() {
            true => StampComparison::Unchanged,
            false => StampComparison::Unknown,
        }
    }
}

impl StampComparison {
    fn of(now: u64, earlier: u64) -> StampComparison {
        match now == earlier {
            true => StampComparison::Unchanged,
            false => StampComparison::Changed,
        }
    }
}

/// FNV-1a, which is the same in every version of this program; never 0.
pub(super) fn fingerprint(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(server: &str, attributes: &[(&str, &str)]) -> Stamp {
        let attributes = attributes.iter();
        let mut attributes = attributes
            .map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]))
            .collect();
        Stamp::take(&mut attributes, &[], server)
    }

    #[test]
    fn a_stamp_is_not_an_attribute_of_the_object() {
        let mut attributes = vec![
            ("mail".to_owned(), vec!["a@b.test".to_owned()]),
            ("entrycsn".to_owned(), vec!["1".to_owned()]),
        ];
        assert!(Stamp::take(&mut attributes, &[], "x").is_known());
        assert_eq!(attributes.len(), 1);
    }

    #[test]
    fn the_best_stamp_that_both_have_decides() {
        let csn = |csn, time| stamp("a", &[("modifyTimestamp", time), ("entryCSN", csn)]);
        let usn = |server, usn, time| stamp(server, &[("uSNChanged", usn), ("whenChanged", time)]);
        for (earlier, now, moved) in [
            (csn("1", "t"), csn("1", "t"), StampComparison::Unchanged),
            (csn("1", "t"), csn("2", "t"), StampComparison::Changed),
            (
                usn("a", "1", "t"),
                usn("a", "1", "t"),
                StampComparison::Unchanged,
            ),
            (
                usn("a", "1", "t"),
                usn("a", "2", "t"),
                StampComparison::Changed,
            ),
            (
                usn("a", "1", "t"),
                usn("b", "7", "t"),
                StampComparison::Unchanged,
            ),
            (
                usn("a", "1", "t"),
                usn("b", "1", "u"),
                StampComparison::Changed,
            ),
            (csn("1", "t"), stamp("a", &[]), StampComparison::Unchanged),
            (stamp("a", &[]), csn("1", "t"), StampComparison::Unknown),
            (stamp("a", &[]), stamp("a", &[]), StampComparison::Unknown),
        ] {
            assert_eq!(now.compare_with(earlier), moved, "{earlier:?} {now:?}");
        }
    }
}
