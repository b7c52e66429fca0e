//! Holds the import rule: a module uses only modules that stand above it in the table of
//! `src/lib.rs`.
//!
//! The table is the rule; this test reads it from there, and the paths that begin with `crate::`
//! from the sources. Test code is free: what stands under `#[cfg(test)]` is left out.

use crate::source;
use std::path::{Path, PathBuf};

use source::Use;

/// The modules in the order of the table, the lowest first.
fn table() -> Vec<String> {
    let lib = std::fs::read_to_string(src().join("lib.rs")).expect("the library has a root");
    let table: Vec<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`")?.split_once("`]"))
        .map(|(module, _)| module.to_owned())
        .collect();
    assert!(
        !table.is_empty(),
        "src/lib.rs has lost its table of modules"
    );
    table
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All Rust files under a directory.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The path of modules that a file is: `["mail", "address"]` for `src/mail/address.rs`.
fn module_path(file: &Path) -> Vec<String> {
    let path = file.strip_prefix(src()).expect("the file is under src");
    path.with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .filter(|part| part != "mod")
        .collect()
}

/// The sources of all modules below the crate's root, those of tests left out.
fn modules() -> Vec<(PathBuf, Vec<String>, source::Source)> {
    let all: Vec<_> = rust_files(&src())
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("a source file is text");
            let path = module_path(&file);
            let read = source::read(&text, path.len());
            (file, path, read)
        })
        .filter(
            |(_, path, _)| !matches!(path.as_slice(), [only] if only == "lib" || only == "main"),
        )
        .collect();
    let of_tests: Vec<Vec<String>> = all
        .iter()
        .flat_map(|(_, path, read)| {
            read.test_modules.iter().map(|module| {
                let mut whole = path.clone();
                whole.push(module.clone());
                whole
            })
        })
        .collect();
    all.into_iter()
        .filter(|(_, path, _)| !of_tests.iter().any(|test| path.starts_with(test)))
        .collect()
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let table = table();
    let place = |module: &str| table.iter().position(|known| known == module);
    let mut faults = Vec::new();
    for (file, path, read) in modules() {
        let own = path.first().expect("a module has a name");
        for Use { module, line } in read.uses {
            let fault = match (place(own), place(&module)) {
                (_, None) => "which is not a module of the table in src/lib.rs",
                (Some(own), Some(used)) if used > own => "which stands below it",
                _ => continue,
            };
            let file = file
                .strip_prefix(env!("CARGO_MANIFEST_DIR"))
                .unwrap_or(&file);
            faults.push(format!(
                "{}:{line}: `{own}` uses `crate::{module}`, {fault}",
                file.display()
            ));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_module_stands_in_the_table() {
    let table = table();
    let missing: Vec<String> = modules()
        .into_iter()
        .filter_map(|(_, path, _)| path.into_iter().next())
        .filter(|module| !table.contains(module))
        .collect();
    assert!(
        missing.is_empty(),
        "the table in src/lib.rs lacks {missing:?}"
    );
}

/// Returns the modules that a source at depth 1 uses, as `line:module`.
fn uses(text: &str) -> Vec<String> {
    let read = source::read(text, 1);
    let uses = read.uses.iter();
    uses.map(|Use { module, line }| format!("{line}:{module}"))
        .collect()
}

#[test]
fn groups_and_paths_in_code_are_seen() {
    let text = "use crate::mail::Address;\n\
                use crate::{\n    spool::{Item, Spool},\n    policy,\n    journal::*,\n};\n\
                fn f(x: crate::smtp::Sink) -> &'static str { $crate::hook::name(x) }\n\
                pub(in crate::deliver) struct S;\n";
    assert_eq!(
        uses(text),
        [
            "1:mail",
            "3:spool",
            "4:policy",
            "5:journal",
            "7:smtp",
            "7:hook",
            "8:deliver"
        ]
    );
}

#[test]
fn the_root_is_seen_behind_super() {
    assert_eq!(uses("use super::mail::Address;\n"), ["1:mail"]);
    assert_eq!(
        uses("use super::{mail, spool::Spool};\n"),
        ["1:mail", "1:spool"]
    );
    assert!(uses("mod inner { use super::Thing; }").is_empty());
    assert_eq!(uses("mod inner { use super::super::mail; }"), ["1:mail"]);
}

#[test]
fn comments_and_texts_are_not_code() {
    let text = "//! [`crate::cli`]\n/* crate::cli /* nested */ crate::cli */\n\
                const A: &str = \"crate::cli \\\" crate::cli\";\n\
                const B: &str = r#\"crate::cli \" crate::cli\"#;\n\
                const C: char = '\"'; const D: u8 = b'\\''; const E: &[u8] = b\"crate::cli\";\n\
                pub(crate) fn f<'a>(x: &'a str) { 'outer: loop { break 'outer; } }\n\
                use crate::mail;\n";
    assert_eq!(uses(text), ["7:mail"]);
}

#[test]
fn test_code_is_left_out() {
    let text = "#[cfg(test)]\nuse crate::cli;\n\
                #[cfg(test)]\n#[path = \"x.rs\"]\nmod cases;\n\
                #[cfg(test)]\nmod tests {\n    use crate::daemon;\n    fn f() { crate::cli::run() }\n}\n\
                #[cfg(not(test))]\nuse crate::hook;\n\
                use crate::mail;\n";
    assert_eq!(uses(text), ["12:hook", "13:mail"]);
    assert_eq!(source::read(text, 1).test_modules, ["cases"]);
}
