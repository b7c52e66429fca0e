//! Compares `docs/metrics.md` with the code, and the alerts and the dashboard with
//! `docs/metrics.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        match path.is_dir() {
            true => rust_files(&path, files),
            false => files.push(path),
        }
    }
}

/// Returns all words of a text that begin with `begin`.
fn words(text: &str, begin: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices(begin)
        .map(|(at, _)| {
            let word = &text[at..];
            word[..word.find(|c| !is_part(c)).unwrap_or(word.len())].to_owned()
        })
        .collect()
}

/// Returns the metrics in the table.
fn documented() -> BTreeSet<String> {
    let rows = file("docs/metrics.md");
    let rows = rows.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}

#[test]
fn metrics_are_recorded_described_and_documented() {
    let mut files = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    rust_files(&src, &mut files);
    let (mut recorded, mut described) = (BTreeSet::new(), BTreeSet::new());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        // At the start of a literal, which leaves out comments.
        let literals = text
            .split('"')
            .filter(|piece| piece.starts_with("copyist_"));
        let names = literals.flat_map(|piece| words(piece, "copyist_"));
        match path.ends_with("admin/metrics.rs") {
            true => described.extend(names),
            false => recorded.extend(names),
        }
    }
    // The recorder itself sets this one.
    recorded.insert("copyist_build_info".to_owned());
    assert!(recorded.len() > 40, "{recorded:?}");
    assert_eq!(recorded, described, "every metric has a HELP text");
    assert_eq!(recorded, documented());
}

#[test]
fn alerts_and_dashboard_use_existing_metrics() {
    let documented = documented();
    for path in [
        "packaging/prometheus/copyist.rules.yml",
        "packaging/grafana/copyist.json",
    ] {
        let used = words(&file(path), "copyist_");
        assert!(used.len() > 8, "{path}: {used:?}");
        let unknown: Vec<_> = used.difference(&documented).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&file("packaging/grafana/copyist.json")).expect("JSON");
    assert!(
        dashboard["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 10)
    );
}
