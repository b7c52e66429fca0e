//! The versions of one message: what each class of its recipients gets. Pure.

use super::bodies::{Obstacle, SignedPolicy};
use super::classes::RecipientClass;
use super::edit::{PartEdit, Splice, edit_with_header};
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
    pub parts: Vec<PartEdit>,
    /// Why it goes as it is although a text is owed.
    pub obstacle: Option<Obstacle>,
}

/// The versions of a message, whose header has so many bytes, the empty line included, if that is
/// known; in the order of the classes; classes that get the same bytes share one.
pub fn versions(
    message: &[u8],
    header: Option<usize>,
    classes: Vec<RecipientClass>,
    signed: SignedPolicy,
) -> Vec<Version> {
    let mut versions: Vec<Version> = Vec::new();
    for class in classes {
        let (edited, obstacle) = match edit_with_header(message, header, &class.texts, signed) {
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
                version.obstacle = version.obstacle.or(obstacle);
            }
            None => versions.push(Version {
                recipients: class.recipients,
                direction: class.direction,
                splices: edited.splices,
                parts: edited.parts,
                obstacle,
            }),
        }
    }
    versions
}
