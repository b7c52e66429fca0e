//! The texts of `prepend` and `append`, and the section `[text]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text;

/// A disclaimer text: plain, HTML, or both, or RTF; each inline or in a file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Wording {
    /// Plain text. If html is not set, the HTML version is derived from it.
    #[schemars(example = &"Example Ltd, 1 Main Street, Exampleton")]
    pub(in crate::config) text: Option<String>,
    /// HTML: a document, or the content of its body. If text is not set, the plain version is
    /// derived from it.
    #[schemars(example = &"<p>Example Ltd</p>")]
    pub(in crate::config) html: Option<String>,
    /// RTF, with or without its header, instead of text and html.
    #[schemars(example = &"Example Ltd\\par 1 Main Street")]
    pub(in crate::config) rtf: Option<String>,
    /// A file with the plain text.
    #[schemars(example = &"/etc/copyist/disclaimer.txt")]
    pub(in crate::config) text_file: Option<String>,
    /// A file with the HTML.
    #[schemars(example = &"/etc/copyist/disclaimer.html")]
    pub(in crate::config) html_file: Option<String>,
    /// A file with the RTF.
    #[schemars(example = &"/etc/copyist/disclaimer.rtf")]
    pub(in crate::config) rtf_file: Option<String>,
    /// Whether the text is left out if the conversation already contains it.
    pub(in crate::config) once: bool,
}

/// How disclaimer texts are added to messages.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Text {
    /// Signed and encrypted messages: leave them as they are (skip), or attach them to a message that
    /// carries the text (wrap).
    pub(in crate::config) signed: Signed,
    /// A message that a text cannot be added to: pass it on without the text, or defer it (451).
    pub(in crate::config) on_failure: TextFailure,
    /// Whether recipients of one message who need different texts get separate versions.
    pub(in crate::config) split_mixed: bool,
    /// The attribute that exempts a person's mail from texts if its value is TRUE. Default: nobody is
    /// exempt.
    #[schemars(example = &"extensionAttribute13")]
    pub(in crate::config) exempt_attribute: Option<String>,
}

words! {
    /// See [`text::SignedPolicy`].
    Signed => text::SignedPolicy, "lowercase" {
        #[default]
        Skip,
        Wrap,
    }
}

words! {
    /// See [`text::OnFailure`].
    TextFailure => text::OnFailure, "lowercase" {
        #[default]
        Pass,
        Defer,
    }
}

impl Default for Text {
    fn default() -> Text {
        Text {
            signed: Signed::default(),
            on_failure: TextFailure::default(),
            split_mixed: true,
            exempt_attribute: None,
        }
    }
}
