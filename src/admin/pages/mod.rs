//! The pages, one file each. They work without JavaScript.

pub(super) mod coverage;
pub(super) mod explain;
mod format;
pub(super) mod item;
pub(super) mod layout;
pub(super) mod login;
pub(super) mod overview;
mod plot;
pub(super) mod queue;
pub(super) mod settings;
