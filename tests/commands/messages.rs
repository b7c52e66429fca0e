//! Holds `docs/messages.md` to the code: every warning and error, with its level, stands on the
//! page, and nothing else does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The level on the page of messages that end the program and are not logged.
const ENDS: &str = "ends";

/// A piece of Rust source, as far as it matters here. Comments are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A name, a keyword, a number.
    Word(String),
    /// A string literal, as it reads at run time.
    Text(String),
    /// Anything else.
    Sign(char),
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a directory that hold more than tests.
fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        let name = path.file_name().and_then(|name| name.to_str());
        match name {
            Some("tests" | "tests.rs") => {}
            _ if path.is_dir() => rust_files(&path, files),
            Some(name) if name.ends_with(".rs") => files.push(path),
            _ => {}
        }
    }
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The end of a block comment, which may hold others, from behind its first `/*` on.
fn comment_end(text: &[char], mut at: usize) -> usize {
    let mut depth = 1;
    while depth > 0 {
        match (text[at], text[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

/// A string literal from behind its first quote on, and where it ends.
fn literal(text: &[char], mut at: usize) -> (String, usize) {
    let mut said = String::new();
    loop {
        match text[at] {
            '"' => return (said, at + 1),
            '\\' if text[at + 1] == '\n' => {
                at += 1;
                while text[at].is_whitespace() {
                    at += 1;
                }
            }
            '\\' => {
                said.push(match text[at + 1] {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    '0' => '\0',
                    other => other,
                });
                at += 2;
            }
            other => {
                said.push(other);
                at += 1;
            }
        }
    }
}

/// A raw string literal from behind its `r` on, and where it ends.
fn raw_literal(text: &[char], at: usize) -> (String, usize) {
    let marks = text[at..].iter().take_while(|&&c| c == '#').count();
    let begin = at + marks + 1;
    let mut end = begin;
    let ends =
        |end: usize| text[end] == '"' && (1..=marks).all(|n| text.get(end + n) == Some(&'#'));
    while !ends(end) {
        end += 1;
    }
    (text[begin..end].iter().collect(), end + 1 + marks)
}

fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let next = |at: usize| text.get(at).copied().unwrap_or(' ');
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            '/' if next(at + 1) == '/' => {
                while at < text.len() && text[at] != '\n' {
                    at += 1;
                }
            }
            '/' if next(at + 1) == '*' => at = comment_end(&text, at + 2),
            '"' => {
                let (said, end) = literal(&text, at + 1);
                tokens.push(Token::Text(said));
                at = end;
            }
            // A character or a lifetime.
            '\'' if next(at + 1) == '\\' => {
                at += 3;
                while next(at) != '\'' {
                    at += 1;
                }
                at += 1;
            }
            '\'' if next(at + 2) == '\'' => at += 3,
            c if is_part(c) => {
                let begin = at;
                while is_part(next(at)) {
                    at += 1;
                }
                let word: String = text[begin..at].iter().collect();
                // r#type is a name.
                let quoted = text[at..].iter().find(|&&c| c != '#') == Some(&'"');
                match (word.as_str(), next(at)) {
                    ("r" | "br", '"' | '#') if quoted => {
                        let (said, end) = raw_literal(&text, at);
                        tokens.push(Token::Text(said));
                        at = end;
                    }
                    // What follows is read as any literal: its escapes are none that matter here.
                    ("b" | "c", '"') => {}
                    _ => tokens.push(Token::Word(word)),
                }
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token::Sign(c));
                }
                at += 1;
            }
        }
    }
    tokens
}

/// Where the bracket that stands here is closed.
fn closing(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("a bracket is never closed: {:?}", &tokens[from]);
}

/// The tokens without modules that are only there for tests.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mark = self::tokens("#[cfg(test)]");
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].starts_with(&mark) && tokens.get(at + mark.len()) == Some(&word("mod")) {
            let mut end = at + mark.len();
            while !matches!(tokens[end], Token::Sign(';' | '{')) {
                end += 1;
            }
            at = closing_or_here(&tokens, end) + 1;
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// `mod tests;` has its content elsewhere.
fn closing_or_here(tokens: &[Token], at: usize) -> usize {
    match tokens[at] {
        Token::Sign(';') => at,
        _ => closing(tokens, at),
    }
}

fn word(text: &str) -> Token {
    Token::Word(text.to_owned())
}

/// As the page writes it: what has no name in the code is an ellipsis.
fn as_told(text: &str) -> String {
    text.replace("{}", "…")
}

/// Level and text of each `warn!` and `error!`. The text is the argument that is a literal and
/// nothing else; what stands before it are fields.
fn logged(tokens: &[Token]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let level = match token {
            Token::Word(name) if name == "warn" || name == "error" => name,
            _ => continue,
        };
        let [Some(Token::Sign('!')), Some(Token::Sign('('))] =
            [tokens.get(at + 1), tokens.get(at + 2)]
        else {
            continue;
        };
        let arguments = &tokens[at + 3..closing(tokens, at + 2)];
        let mut depth = 0;
        let parts = arguments.split(|token| {
            match token {
                Token::Sign('(' | '[' | '{') => depth += 1,
                Token::Sign(')' | ']' | '}') => depth -= 1,
                _ => {}
            }
            depth == 0 && *token == Token::Sign(',')
        });
        let text = parts.into_iter().find_map(|part| match part {
            [Token::Text(text)] => Some(text),
            _ => None,
        });
        let text = text.unwrap_or_else(|| panic!("{level}! without a text: {arguments:?}"));
        found.push((level.clone(), as_told(text)));
    }
    found
}

/// A source file's tokens, without tests.
fn sources() -> Vec<Vec<Token>> {
    let mut files = Vec::new();
    rust_files(&root("src"), &mut files);
    let tokens = files.iter().map(|path| without_tests(tokens(&read(path))));
    tokens.collect()
}

/// Level and text of each message in the tables of the page: a row begins with the texts, each
/// between backticks.
fn told() -> Vec<(String, String)> {
    let page = read(&root("docs/messages.md"));
    let mut told = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        // Cells are parted by a bar; one that belongs to a text is written with a backslash.
        let cells: Vec<String> = row
            .replace("\\|", "\u{0}")
            .split('|')
            .map(|cell| cell.trim().replace('\u{0}', "|"))
            .collect();
        let texts: Vec<&str> = cells[1].split('`').collect();
        assert!(texts.len() % 2 == 1, "backticks of {row}");
        for (number, text) in texts.into_iter().enumerate() {
            match number % 2 {
                1 => told.push((cells[2].clone(), text.to_owned())),
                _ => assert!(text.is_empty() || text == "<br>", "{text:?} in {row}"),
            }
        }
    }
    told
}

#[test]
fn exactly_the_warnings_and_errors_of_the_source_are_documented() {
    let logged: BTreeSet<_> = sources().iter().flat_map(|tokens| logged(tokens)).collect();
    assert!(logged.len() > 60, "{logged:#?}");
    let lines = told().into_iter().filter(|(level, _)| level != ENDS);
    let told: BTreeSet<_> = lines.collect();
    let missing: Vec<_> = logged.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&logged).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not in docs/messages.md: {missing:#?}\nnot in src: {unknown:#?}"
    );
}

#[test]
fn documented_exit_messages_exist_in_the_source() {
    let literals: BTreeSet<String> = (sources().into_iter().flatten())
        .filter_map(|token| match token {
            Token::Text(text) => Some(as_told(&text)),
            _ => None,
        })
        .collect();
    let ends = told().into_iter().filter(|(level, _)| level == ENDS);
    let ends: Vec<String> = ends.map(|(_, text)| text).collect();
    assert!(ends.len() > 15, "{ends:#?}");
    let unknown: Vec<_> = ends
        .iter()
        .filter(|&text| !literals.contains(text))
        .collect();
    assert!(unknown.is_empty(), "not in src: {unknown:#?}");
}

#[test]
fn each_message_has_one_row() {
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = (told().into_iter())
        .filter(|message| !seen.insert(message.clone()))
        .collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

#[test]
fn messages_are_found_however_they_are_written() {
    let source = r##"
        // warn!("in a comment") /* error!("too") */
        const TEXT: &str = "warn!(\"in a text\")";
        fn f<'a>(c: char, x: &'a str) {
            let signs = ['"', '\'', '\\', '('];
            tracing::warn!(
                queue_id = x.get(1, 2), %c, said = "a field",
                "of {} and \"{x}\", \
                 in two lines", y("no"),
            );
            match c { _ => error!(r#"raw "{c}""#) }
            if warn(x) && error != b"warn!" { compile_error!("no"); }
        }
        #[cfg(test)]
        mod tests { fn g() { warn!("of a test"); if true { error!("too") } } }
        #[cfg(test)]
        mod others;
        fn h() { error!("the last") }
    "##;
    let found = logged(&without_tests(tokens(source)));
    let expected = [
        ("warn", "of … and \"{x}\", in two lines"),
        ("error", "raw \"{c}\""),
        ("error", "the last"),
    ];
    let expected: Vec<_> = (expected.iter())
        .map(|(level, text)| ((*level).to_owned(), (*text).to_owned()))
        .collect();
    assert_eq!(found, expected);
}
