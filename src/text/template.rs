//! Templates: texts that are filled in with attributes of the sender's object.
//!
//! Promises: a template ends (its fuel is bounded) and its result is bounded; what an attribute
//! holds is text in HTML, too, never a tag; a line that names something empty is not there. Fails
//! by [`TemplateError`].

use std::sync::Arc;

use minijinja::value::{Object, Value};
use minijinja::{AutoEscape, Environment, Error, Output, State, UndefinedBehavior};

use crate::directory::Entry;

/// Steps that one filling may take; a signature takes some dozens.
const FUEL: u64 = 20_000;

/// Bytes that one filling may come to.
const LONGEST: usize = 256 * 1024;

/// Stands in a line for something that is empty; no text that is read holds it.
const NOTHING: &str = "\u{1}";

/// The one variable there is.
const SENDER: &str = "sender";

/// A text with places to fill in.
#[derive(Debug, Clone)]
pub(super) struct Template {
    environment: Arc<Environment<'static>>,
    name: &'static str,
    attributes: Vec<String>,
}

/// Why a template is of no use, or cannot be filled in; continues a sentence that begins with its
/// name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is no template, or one of its steps fails.
    #[error("is a template with a mistake in line {line}: {what}")]
    Mistake {
        /// Counted from 1.
        line: usize,
        /// What the template engine says.
        what: String,
    },
    /// It names something that there is not.
    #[error(
        "is a template with {name:?} in it, where only {SENDER} is known, as in {{{{ {SENDER}.displayName }}}}"
    )]
    Unknown {
        /// The variable.
        name: String,
    },
    /// What it comes to is out of all proportion.
    #[error("is a template that comes to more than {LONGEST} bytes")]
    TooLong,
}

/// Whether a text has places to fill in.
pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

impl Template {
    /// Of plain text.
    pub(super) fn plain(source: String) -> Result<Template, TemplateError> {
        Template::new("plain", source)
    }

    /// Of HTML: values are escaped.
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
        // The engine takes away one line break at the end.
        let ended = source.ends_with('\n');
        let source = source + if ended { "\n" } else { "" };
        environment
            .add_template_owned(name, source)
            .map_err(mistake)?;
        let named = environment
            .get_template(name)
            .map_err(mistake)?
            .undeclared_variables(true);
        let mut attributes = Vec::new();
        for variable in named {
            // Functions that the engine brings are no variables of ours.
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
        // Unknown filters and functions show only when they are reached.
        match template.fill(&[]) {
            Err(TemplateError::TooLong) | Ok(_) => Ok(template),
            Err(TemplateError::Mistake { what, .. }) if what.contains("fuel") => Ok(template),
            Err(error) => Err(error),
        }
    }

    /// The attributes that it names.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &String> {
        self.attributes.iter()
    }

    /// What it says for the sender whose objects these are; of several, the first that has a value
    /// counts.
    pub(super) fn fill(&self, sender: &[Arc<Entry>]) -> Result<String, TemplateError> {
        let context = minijinja::context! { sender => Value::from_object(Person(sender.to_vec())) };
        let template = self.environment.get_template(self.name).map_err(mistake)?;
        let filled = template.render(context).map_err(mistake)?;
        if filled.len() > LONGEST {
            return Err(TemplateError::TooLong);
        }
        let there = filled
            .split_inclusive('\n')
            .filter(|line| !line.contains(NOTHING));
        let mut text: String = there.collect();
        // Values come from people's objects and may hold anything.
        text.retain(|c| !c.is_control() || c == '\n' || c == '\t');
        Ok(text)
    }
}

/// A person of the directory, as templates see one.
#[derive(Debug)]
struct Person(Vec<Arc<Entry>>);

impl Object for Person {
    fn get_value(self: &Arc<Person>, key: &Value) -> Option<Value> {
        let values = self
            .0
            .iter()
            .flat_map(|entry| entry.values(key.as_str().unwrap_or_default()));
        let mut given = values.map(str::trim).filter(|value| !value.is_empty());
        given.next().map(Value::from)
    }
}

fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined()
        || value.is_none()
        || value.as_str().is_some_and(|text| text.trim().is_empty())
    {
        out.write_str(NOTHING).map_err(Error::from)
    } else {
        minijinja::escape_formatter(out, state, value)
    }
}

fn mistake(error: Error) -> TemplateError {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    TemplateError::Mistake {
        line: error.line().unwrap_or(1),
        what,
    }
}
