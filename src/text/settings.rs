//! Settings of the text module; built by `config`.

use super::bodies::SignedPolicy;
use super::disclaimer::Disclaimer;
use crate::policy::Direction;

/// The texts, and how they are added.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For inbound mail.
    pub inbound: DirectionTexts,
    /// For outbound mail.
    pub outbound: DirectionTexts,
    /// For internal mail.
    pub internal: DirectionTexts,
    /// The treatment of signed and encrypted messages.
    pub signed: SignedPolicy,
    /// The treatment of messages that should be edited, but cannot be.
    pub on_failure: OnFailure,
    /// Whether recipients with different texts get different versions.
    pub split_mixed: bool,
    /// The attribute that exempts a person's mail from texts if its value is `TRUE`; `None` exempts
    /// nobody.
    pub exempt_attribute: Option<String>,
}

impl Settings {
    /// Whether a text is added to mail of any direction.
    pub fn has_texts(&self) -> bool {
        let all = [&self.inbound, &self.outbound, &self.internal];
        all.iter()
            .any(|texts| texts.prepend.is_some() || texts.append.is_some())
    }
}

/// The texts of one direction.
#[derive(Debug, Clone, Default)]
pub struct DirectionTexts {
    /// The text before the body.
    pub prepend: Option<Disclaimer>,
    /// The text after the body.
    pub append: Option<Disclaimer>,
}

/// The treatment of a message that should be edited, but cannot be: a template fails, the directory
/// does not answer, the MTA does not allow the edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The message passes unchanged.
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
        self.disclaimers().next().is_none()
    }

    /// Returns the attributes needed from people's objects.
    pub fn attributes(&self) -> Vec<String> {
        let of_templates = self.disclaimers().flat_map(Disclaimer::attributes);
        let mut names: Vec<String> = of_templates.chain(self.exempt_attribute.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn disclaimers(&self) -> impl Iterator<Item = &Disclaimer> {
        let all = Direction::ALL
            .into_iter()
            .map(|direction| self.of(direction));
        all.flat_map(|texts| [&texts.prepend, &texts.append].into_iter().flatten())
    }
}

impl DirectionTexts {
    /// Whether one of the texts needs the sender's object.
    pub fn needs_sender(&self) -> bool {
        let both = [&self.prepend, &self.append].into_iter().flatten();
        both.into_iter()
            .any(|disclaimer| !disclaimer.attributes().is_empty())
    }
}
