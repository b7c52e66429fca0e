//! The web pages and their access, with a real browser.

#[path = "../lab/mod.rs"]
mod lab;
mod office;

mod admin;
mod pages;
