//! Users and groups of this machine → their numbers.

use nix::unistd::{Group, User};

/// A user, by name or number.
pub(super) fn user(text: &str) -> Result<u32, &'static str> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("is no user of this machine"),
        Err(_) => Err("cannot be looked up among the users of this machine"),
    }
}

/// A group, by name or number.
pub(super) fn group(text: &str) -> Result<u32, &'static str> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("is no group of this machine"),
        Err(_) => Err("cannot be looked up among the groups of this machine"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood_and_nobody_is_invented() {
        assert_eq!((user("root"), group("root")), (Ok(0), Ok(0)));
        assert_eq!((user("102"), group("4711")), (Ok(102), Ok(4711)));
        for text in ["", "nobody-has-this-name", "-1", "root:root"] {
            assert!(user(text).is_err() && group(text).is_err(), "{text}");
        }
    }
}
