//! Templates: texts filled in with attributes of the sender's object.
//!
//! Promises: rendering terminates (its fuel is bounded) and its result is bounded; attribute values
//! are escaped in HTML; a line with an empty value is dropped. Fails with a [`TemplateError`].

use std::sync::Arc;

use minijinja::value::{Object, Value};
use minijinja::{AutoEscape, Environment, Error, Output, State, UndefinedBehavior};

use crate::directory::Entry;

/// Steps that one rendering may take; a signature takes some dozens.
const FUEL: u64 = 20_000;

/// Longest result in bytes.
const LONGEST: usize = 256 * 1024;

/// A placeholder for an empty value; no configured text contains it.
const EMPTY_VALUE: &str = "\u{1}";

/// The only variable.
const SENDER: &str = "sender";

/// A compiled template.
#[derive(Debug, Clone)]
pub(super) struct Template {
    environment: Arc<Environment<'static>>,
    name: &'static str,
    attributes: Vec<String>,
}

/// The reason why a template is invalid or cannot be filled in; continues a sentence that begins
/// with its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The syntax is invalid, or a step fails.
    #[error("has a template error in line {line}: {what}")]
    Invalid {
        /// The line, counted from 1.
        line: usize,
        /// The template engine's message.
        what: String,
    },
    /// An unknown variable.
    #[error(
        "uses the unknown variable {name:?}; only {SENDER} is known, as in {{{{ {SENDER}.displayName }}}}"
    )]
    Unknown {
        /// The variable.
        name: String,
    },
    /// The result is too long.
    #[error("expands to more than {LONGEST} bytes")]
    TooLong,
}

/// Whether a text has template syntax.
pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

impl Template {
    /// Compiles plain text.
    pub(super) fn plain(source: String) -> Result<Template, TemplateError> {
        Template::new("plain", source)
    }

    /// Compiles HTML, in which values are escaped.
    pub(super) fn html(source: String) -> Result<Template, TemplateError> {
        Template::new("html", source)
    }

    fn new(name: &'static str, source: String) -> Result<Template, TemplateError> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|name| match name {
            "html" => AutoEscape::Html,
            _ => AutoEscape::None,
        });
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_formatter(format);
        environment.set_fuel(Some(FUEL));
        // The engine removes one trailing line break.
        let ended = source.ends_with('\n');
        let source = source + if ended { "\n" } else { "" };
        environment
            .add_template_owned(name, source)
            .map_err(invalid)?;
        let named = environment
            .get_template(name)
            .map_err(invalid)?
            .undeclared_variables(true);
        let mut attributes = Vec::new();
        for variable in named {
            // Built-in functions of the engine are not variables.
            if environment.globals().any(|(global, _)| global == variable) {
                continue;
            }
            match variable.split_once('.') {
                Some((SENDER, path)) => {
                    attributes.extend(path.split('.').next().map(str::to_owned));
                }
                None if variable == SENDER => {}
                _ => return Err(TemplateError::Unknown { name: variable }),
            }
        }
        attributes.sort_unstable();
        let template = Template {
            environment: Arc::new(environment),
            name,
            attributes,
        };
        // Unknown filters and functions fail only when they are evaluated.
        match template.fill(&[]) {
            Err(TemplateError::TooLong) | Ok(_) => Ok(template),
            Err(TemplateError::Invalid { what, .. }) if what.contains("fuel") => Ok(template),
            Err(error) => Err(error),
        }
    }

    /// Iterates over the attributes that it uses.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &String> {
        self.attributes.iter()
    }

    /// Renders it for the sender with these objects; the first object that has a value counts.
    pub(super) fn fill(&self, sender: &[Arc<Entry>]) -> Result<String, TemplateError> {
        let context = minijinja::context! { sender => Value::from_object(Person(sender.to_vec())) };
        let template = self.environment.get_template(self.name).map_err(invalid)?;
        let filled = template.render(context).map_err(invalid)?;
        if filled.len() > LONGEST {
            return Err(TemplateError::TooLong);
        }
        let lines = filled
            .split_inclusive('\n')
            .filter(|line| !line.contains(EMPTY_VALUE));
        let mut text: String = lines.collect();
        // Values come from people's objects and may contain anything.
        text.retain(|c| !c.is_control() || c == '\n' || c == '\t');
        Ok(text)
    }
}

/// A person of the directory, as templates see it.
#[derive(Debug)]
struct Person(Vec<Arc<Entry>>);

impl Object for Person {
    fn get_value(self: &Arc<Person>, key: &Value) -> Option<Value> {
        let values = self
            .0
            .iter()
            .flat_map(|entry| entry.values(key.as_str().unwrap_or_default()));
        let mut values = values.map(str::trim).filter(|value| !value.is_empty());
        values.next().map(Value::from)
    }
}

fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined()
        || value.is_none()
        || value.as_str().is_some_and(|text| text.trim().is_empty())
    {
        out.write_str(EMPTY_VALUE).map_err(Error::from)
    } else {
        minijinja::escape_formatter(out, state, value)
    }
}

fn invalid(error: Error) -> TemplateError {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    TemplateError::Invalid {
        line: error.line().unwrap_or(1),
        what,
    }
}
