//! User and group names → their numbers.

use nix::unistd::{Group, User};

/// Looks up a user by name or number.
pub(super) fn user(text: &str) -> Result<u32, &'static str> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("is not a user on this machine"),
        Err(_) => Err("cannot be looked up in the user database"),
    }
}

/// Looks up a group by name or number.
pub(super) fn group(text: &str) -> Result<u32, &'static str> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("is not a group on this machine"),
        Err(_) => Err("cannot be looked up in the group database"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_and_numbers_resolve_and_unknown_ones_do_not() {
        assert_eq!((user("root"), group("root")), (Ok(0), Ok(0)));
        assert_eq!((user("102"), group("4711")), (Ok(102), Ok(4711)));
        for text in ["", "nobody-has-this-name", "-1", "root:root"] {
            assert!(user(text).is_err() && group(text).is_err(), "{text}");
        }
    }
}
