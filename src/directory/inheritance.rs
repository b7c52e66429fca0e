//! Journal attributes that people inherit from groups and containers.

use super::dn::rdn_ranges;
use super::entry::Entry;

/// The name of all groups and containers in [`super::change_log::ChangeLog`]. A new membership is a
/// change of the group, which the cached answers of the new member do not depend on by name.
pub(super) const ALL_GROUPS_AND_CONTAINERS: &str = "groups and containers";

/// Returns the containers above an object, the nearest first, up to the search base.
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

/// Whether a change of this object may change what others inherit: it is a group, or has no
/// addresses.
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
