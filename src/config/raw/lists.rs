//! Lists of strings, which may be written as one string.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A list of strings, or a single string. One empty string is the empty list, so that an
/// environment variable can empty a list, too.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(in crate::config) struct StringList(pub(in crate::config) Vec<String>);

/// Lists of strings. A list of single words is one group; a string may hold several words.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub(in crate::config) struct StringGroups(StringList);

impl StringGroups {
    /// The groups, each as a list.
    pub(in crate::config) fn lists(&self) -> Vec<Vec<&str>> {
        let words = |text: &'_ String| -> bool { text.split_whitespace().nth(1).is_some() };
        let StringList(texts) = &self.0;
        match texts.iter().any(words) {
            true => texts
                .iter()
                .map(|text| text.split_whitespace().collect())
                .collect(),
            false if texts.is_empty() => Vec::new(),
            false => vec![texts.iter().map(String::as_str).collect()],
        }
    }
}

impl JsonSchema for StringGroups {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StringGroups".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["array", "string"],
            "items": { "type": ["array", "string"], "items": { "type": "string" } },
        })
    }
}

impl<const N: usize> From<[&str; N]> for StringList {
    fn from(texts: [&str; N]) -> StringList {
        StringList(texts.map(str::to_owned).into())
    }
}

impl JsonSchema for StringList {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StringList".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["array", "string"],
            "items": { "type": "string" },
        })
    }
}

impl<'de> Deserialize<'de> for StringList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StringList, D::Error> {
        deserializer.deserialize_any(StringListVisitor)
    }
}

struct StringListVisitor;

impl<'de> Visitor<'de> for StringListVisitor {
    type Value = StringList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E>(self, text: &str) -> Result<StringList, E> {
        Ok(match text.trim() {
            "" => StringList::default(),
            text => StringList(vec![text.to_owned()]),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<StringList, A::Error> {
        let mut texts = Vec::<String>::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        match texts.as_slice() {
            [text] => self.visit_str(text),
            _ => Ok(StringList(texts)),
        }
    }
}
