//! The versions of one message: what each class of its recipients gets. Pure.

use super::bodies::{Obstacle, Signed};
use super::classes::Class;
use super::edit::{Note, Splice, edit_behind};
use crate::policy::Direction;

/// What some recipients of a message get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The recipients, by their place in the envelope, in order.
    pub recipients: Vec<usize>,
    /// The direction it is accounted to.
    pub direction: Direction,
    /// What changes the message; nothing where it goes as it is.
    pub splices: Vec<Splice>,
    /// The parts that were changed.
    pub notes: Vec<Note>,
    /// Why it goes as it is although a text is owed.
    pub left: Option<Obstacle>,
}

/// The versions of a message, whose header has so many bytes, the empty line included, if that is
/// known; in the order of the classes; classes that get the same bytes share one.
pub fn versions(
    message: &[u8],
    header: Option<usize>,
    classes: Vec<Class>,
    signed: Signed,
) -> Vec<Version> {
    let mut versions: Vec<Version> = Vec::new();
    for class in classes {
        let (edited, left) = match edit_behind(message, header, &class.texts, signed) {
            Ok(edited) => (edited, None),
            Err(obstacle) => (Default::default(), Some(obstacle)),
        };
        let same = versions
            .iter_mut()
            .find(|version| version.splices == edited.splices);
        match same {
            Some(version) => {
                version.recipients.extend(class.recipients);
                version.recipients.sort_unstable();
                version.left = version.left.or(left);
            }
            None => versions.push(Version {
                recipients: class.recipients,
                direction: class.direction,
                splices: edited.splices,
                notes: edited.notes,
                left,
            }),
        }
    }
    versions
}
