//! The versions of one message, one for each class of recipients. Pure.

use super::bodies::{Obstacle, SignedPolicy};
use super::classes::RecipientClass;
use super::edit::{PartEdit, Splice, edit_with_header};
use crate::policy::Direction;

/// The version of a message for some of its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The indices of the recipients in the envelope, in order.
    pub recipients: Vec<usize>,
    /// The direction that it counts for.
    pub direction: Direction,
    /// The changes; empty if the message passes unchanged.
    pub splices: Vec<Splice>,
    /// The edited parts.
    pub parts: Vec<PartEdit>,
    /// The reason why a text was not added.
    pub obstacle: Option<Obstacle>,
}

/// Creates the versions of a message in the order of the classes; classes that get the same bytes
/// share one. `header` is the size of the message's header in bytes with the empty line, if known.
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
