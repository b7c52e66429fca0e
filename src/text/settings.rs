//! What the administrator decided about texts; built by `config`.

use super::bodies::SignedPolicy;
use super::disclaimer::Disclaimer;
use crate::policy::Direction;

/// Texts, and how they are put in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For inbound mail.
    pub inbound: DirectionTexts,
    /// For outbound mail.
    pub outbound: DirectionTexts,
    /// For internal mail.
    pub internal: DirectionTexts,
    /// What becomes of signed and encrypted messages.
    pub signed: SignedPolicy,
    /// What becomes of a message that cannot be edited although it should be.
    pub on_failure: OnFailure,
    /// Whether recipients who are owed different texts get versions of their own.
    pub split_mixed: bool,
    /// The attribute that exempts a person's mail from texts, with the value `TRUE`; nobody is
    /// exempt where `None`.
    pub exempt_attribute: Option<String>,
}

impl Settings {
    /// Whether a text is put into mail of any direction.
    pub fn has_texts(&self) -> bool {
        let all = [&self.inbound, &self.outbound, &self.internal];
        all.iter()
            .any(|texts| texts.prepend.is_some() || texts.append.is_some())
    }
}

/// The texts of one direction.
#[derive(Debug, Clone, Default)]
pub struct DirectionTexts {
    /// Before the body.
    pub prepend: Option<Disclaimer>,
    /// After it.
    pub append: Option<Disclaimer>,
}

/// What becomes of a message that should be edited and cannot be: a template fails, the directory
/// does not answer, the MTA does not let us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It goes on as it is.
    #[default]
    Pass,
    /// 451: the MTA keeps it and tries again.
    Defer,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            inbound: DirectionTexts::default(),
            outbound: DirectionTexts::default(),
            internal: DirectionTexts::default(),
            signed: SignedPolicy::default(),
            on_failure: OnFailure::default(),
            split_mixed: true,
            exempt_attribute: None,
        }
    }
}

impl Settings {
    /// The texts of one direction.
    pub fn of(&self, direction: Direction) -> &DirectionTexts {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
            Direction::Internal => &self.internal,
        }
    }

    /// Whether no message gets any text.
    pub fn is_empty(&self) -> bool {
        self.wordings().next().is_none()
    }

    /// The attributes of people's objects that are needed.
    pub fn attributes(&self) -> Vec<String> {
        let of_templates = self.wordings().flat_map(Disclaimer::attributes);
        let mut names: Vec<String> = of_templates.chain(self.exempt_attribute.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn wordings(&self) -> impl Iterator<Item = &Disclaimer> {
        let all = Direction::ALL
            .into_iter()
            .map(|direction| self.of(direction));
        all.flat_map(|texts| [&texts.prepend, &texts.append].into_iter().flatten())
    }
}

impl DirectionTexts {
    /// Whether a text of it takes the sender's object.
    pub fn needs_sender(&self) -> bool {
        let both = [&self.prepend, &self.append].into_iter().flatten();
        both.into_iter()
            .any(|wording| !wording.attributes().is_empty())
    }
}
