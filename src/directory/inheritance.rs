//! Where else than in a person's own object a journal attribute may stand: in groups and in
//! containers.

use super::dn::rdn_ranges;
use super::entry::Entry;

/// What [`super::change_log::ChangeLog`] calls every group and container at once: that somebody became a
/// member of one is told of the group, which nobody could have known to matter.
pub(super) const ALL_GROUPS_AND_CONTAINERS: &str = "groups and containers";

/// The containers above an object, the nearest first, up to the base of all searches.
pub(super) fn containers_above(dn: &str, base: &str) -> Vec<String> {
    let base_depth = rdn_ranges(base).len();
    let all = rdn_ranges(dn);
    let mut above = Vec::new();
    for at in 1..all.len() {
        if all.len() - at < base_depth.max(1) {
            break;
        }
        let (start, _) = all[at];
        above.push(dn[start..].trim_start().to_owned());
    }
    above
}

/// Whether a change of this object may change what others inherit: it is a group, or no person.
pub(super) fn is_inheritable(entry: &Entry, has_addresses: bool) -> bool {
    !has_addresses || super::resolve::is_group(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_of_an_object_end_at_the_base() {
        assert_eq!(
            containers_above(
                "CN=Ana\\, Maria,OU=Sales, OU=East,DC=b,DC=test",
                "dc=B,dc=test"
            ),
            [
                "OU=Sales, OU=East,DC=b,DC=test",
                "OU=East,DC=b,DC=test",
                "DC=b,DC=test"
            ]
        );
        assert_eq!(
            containers_above("cn=x,dc=b", "ou=deeper,dc=b"),
            Vec::<String>::new()
        );
        assert_eq!(containers_above("cn=x,dc=b", ""), ["dc=b"]);
        assert_eq!(containers_above("", "dc=b"), Vec::<String>::new());
    }
}
