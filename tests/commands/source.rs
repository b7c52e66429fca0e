//! Reads just enough of a Rust source to tell which modules of the crate it uses.
//!
//! Not a parser: it knows what is a comment or a text, which braces belong together, and what
//! follows `#[cfg(test)]`.

/// The modules that a source file names.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// The modules of the crate's root that are named outside of tests.
    pub(crate) uses: Vec<Use>,
    /// Modules in files of their own that exist only for tests: `#[cfg(test)] mod tests;`.
    pub(crate) test_modules: Vec<String>,
}

/// One place where a module of the crate's root is named.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) module: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    /// A whole word, `::`, or one other character.
    text: String,
    line: usize,
}

/// Reads the source of a module that lies this deep below the crate's root.
pub(crate) fn read(text: &str, depth: usize) -> Source {
    let tokens = tokens(text);
    let mut source = Source::default();
    // Inline modules that are open here: the depth of braces in which each began.
    let mut inline: Vec<usize> = Vec::new();
    let mut braces = 0_usize;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if is_test_attribute(&tokens[at..]) {
            let end = end_of_item(&tokens, at);
            if let [module] = module_files(&tokens[at..end]).as_slice() {
                source.test_modules.push(module.clone());
            }
            at = end;
            continue;
        }
        match token.text.as_str() {
            "{" => {
                if at >= 2 && tokens[at - 2].text == "mod" {
                    inline.push(braces);
                }
                braces += 1;
            }
            "}" => {
                braces = braces.saturating_sub(1);
                inline.pop_if(|began| *began == braces);
            }
            "crate" => named(&tokens[at + 1..], &mut source.uses),
            "super" if at == 0 || tokens[at - 1].text != "::" => {
                let chain = supers(&tokens[at..]);
                if chain == depth + inline.len() {
                    named(&tokens[at + 2 * chain - 1..], &mut source.uses);
                }
            }
            _ => {}
        }
        at += 1;
    }
    source
}

/// How many `super`s stand here, joined by `::`.
fn supers(tokens: &[Token]) -> usize {
    tokens
        .chunks(2)
        .take_while(|pair| pair[0].text == "super")
        .count()
}

/// Notes what is named behind the crate's root: `::a`, or each part of `::{a, b::{C, D}}`.
fn named(behind: &[Token], uses: &mut Vec<Use>) {
    let [colons, rest @ ..] = behind else { return };
    if colons.text != "::" {
        return;
    }
    let mut depth = 0_usize;
    let mut name_is_next = true;
    for token in rest {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            "," if depth == 1 => name_is_next = true,
            _ if name_is_next => {
                uses.push(Use {
                    module: token.text.clone(),
                    line: token.line,
                });
                name_is_next = false;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

/// Whether an attribute stands here that makes what follows exist only in tests.
fn is_test_attribute(tokens: &[Token]) -> bool {
    starts_with(tokens, &["#", "[", "cfg", "(", "test", ")", "]"])
        || starts_with(tokens, &["#", "[", "cfg", "(", "all", "(", "test", ","])
}

fn starts_with(tokens: &[Token], words: &[&str]) -> bool {
    tokens.len() >= words.len()
        && tokens
            .iter()
            .zip(words)
            .all(|(token, word)| token.text == *word)
}

/// The index behind the item that begins at `at` with its attributes: behind its first `;` outside
/// of brackets, or behind its first block.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    let mut open = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => open += 1,
            ")" | "]" => open = open.saturating_sub(1),
            "}" => {
                open = open.saturating_sub(1);
                // `use crate::{a, b};` goes on behind its braces.
                let goes_on = tokens.get(index + 1).is_some_and(|next| next.text == ";");
                if open == 0 && !goes_on {
                    return index + 1;
                }
            }
            ";" if open == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The modules in files of their own that these tokens declare.
fn module_files(tokens: &[Token]) -> Vec<String> {
    tokens
        .windows(3)
        .filter(|three| three[0].text == "mod" && three[2].text == ";")
        .map(|three| three[1].text.clone())
        .collect()
}

/// The source without its comments and texts.
fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        let (length, is_token) = next(rest);
        if is_token {
            tokens.push(Token {
                text: rest[..length].iter().collect(),
                line,
            });
        }
        line += rest[..length].iter().filter(|c| **c == '\n').count();
        at += length;
    }
    tokens
}

/// The length of what stands first here, and whether it is a token.
fn next(rest: &[char]) -> (usize, bool) {
    match rest {
        ['/', '/', ..] => (rest.iter().take_while(|c| **c != '\n').count(), false),
        ['/', '*', ..] => (block_comment(rest), false),
        ['"', ..] => (1 + quoted(&rest[1..], '"'), false),
        ['b' | 'c', '"', ..] => (2 + quoted(&rest[2..], '"'), false),
        ['b', '\'', ..] => (2 + quoted(&rest[2..], '\''), false),
        ['r', '"' | '#', ..] if raw(&rest[1..]) > 0 => (1 + raw(&rest[1..]), false),
        ['b' | 'c', 'r', '"' | '#', ..] if raw(&rest[2..]) > 0 => (2 + raw(&rest[2..]), false),
        // A character, not a lifetime: escaped, or closed right behind it.
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => (1 + quoted(&rest[1..], '\''), false),
        [':', ':', ..] => (2, true),
        [c, ..] if is_word(*c) => (rest.iter().take_while(|c| is_word(**c)).count(), true),
        [c, ..] => (1, !c.is_whitespace()),
        [] => (0, false),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of a text up to and with the quote that ends it.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 0;
    while let Some(c) = rest.get(at) {
        match c {
            '\\' => at += 2,
            c if *c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `#"…"#` with any number of `#`; 0 where it is something else, as in `r#type`.
fn raw(rest: &[char]) -> usize {
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return 0;
    }
    let mut at = hashes + 1;
    while at < rest.len() {
        let behind = &rest[at + 1..];
        if rest[at] == '"' && behind.len() >= hashes && behind[..hashes].iter().all(|c| *c == '#') {
            return at + 1 + hashes;
        }
        at += 1;
    }
    rest.len()
}

/// The length of a block comment; they nest.
fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}
