//! The pages. Each is one file: what was asked for in, a page out. They work without JavaScript.

pub(super) mod coverage;
pub(super) mod explain;
pub(super) mod item;
pub(super) mod layout;
pub(super) mod login;
pub(super) mod overview;
mod plot;
pub(super) mod queue;
pub(super) mod settings;
mod words;
