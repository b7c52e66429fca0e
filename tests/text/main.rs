//! Texts before and after bodies, judged by other MIME parsers and a browser.

#[macro_use]
#[path = "../lab/mod.rs"]
mod lab;

mod mails;
mod pipeline_text;
mod subjects;
mod text;
mod text_browser;
mod text_properties;
