//! Texts in random MIME trees: into the body and nowhere else.

use std::sync::Arc;

use copyist::text::{Disclaimer, EditMethod, SignedPolicy, Text, Texts, apply, edit};
use proptest::prelude::*;

/// A part of a message.
#[derive(Debug, Clone)]
enum Node {
    /// Plain text or HTML in a transfer encoding.
    Text {
        html: bool,
        base64: bool,
    },
    /// Text as an attachment.
    File,
    Image,
    /// An attached message with text in it.
    Message,
    Calendar,
    Multipart(&'static str, Vec<Node>),
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        3 => (any::<bool>(), any::<bool>()).prop_map(|(html, base64)| Node::Text { html, base64 }),
        1 => Just(Node::File),
        1 => Just(Node::Image),
        1 => Just(Node::Message),
        1 => Just(Node::Calendar),
    ];
    leaf.prop_recursive(5, 24, 5, |inner| {
        let kind = prop::sample::select(vec!["mixed", "alternative", "related", "parallel"]);
        (kind, prop::collection::vec(inner, 1..5))
            .prop_map(|(kind, all)| Node::Multipart(kind, all))
    })
}

/// Writes trees.
#[derive(Default)]
struct Writer {
    next: usize,
    /// Each leaf as it stands in the message, and whether a reader shows it as the body.
    leaves: Vec<(String, bool)>,
}

impl Writer {
    /// The part; `shown` says that it may be the body. Also whether a body is in it.
    fn write(&mut self, node: &Node, shown: bool) -> (String, bool) {
        self.next += 1;
        let n = self.next;
        let leaf = |kind: &str, more: &str, body: &str| {
            format!("Content-Type: {kind}\r\n{more}\r\n{body}")
        };
        let text = match node {
            Node::Multipart(kind, children) => return self.multipart(n, kind, children, shown),
            Node::Text {
                html: false,
                base64: false,
            } => leaf("text/plain", "", &format!("words {n}")),
            Node::Text {
                html: true,
                base64: false,
            } => leaf(
                "text/html; charset=utf-8",
                "",
                &format!("<html><body>words {n}</body></html>"),
            ),
            Node::Text { html, base64: true } => {
                let kind = if *html {
                    "text/html"
                } else {
                    "text/plain; charset=utf-8"
                };
                leaf(
                    kind,
                    &format!("Content-Description: {n}\r\nContent-Transfer-Encoding: base64\r\n"),
                    "d29yZHM=",
                )
            }
            Node::File => leaf(
                "text/plain",
                "Content-Disposition: attachment; filename=a.txt\r\n",
                &format!("file {n}"),
            ),
            Node::Image => leaf(
                "image/png",
                &format!("Content-ID: <{n}>\r\n"),
                "cGljdHVyZQ==",
            ),
            Node::Message => leaf(
                "message/rfc822",
                "",
                &format!("Subject: {n}\r\n\r\nattached {n}"),
            ),
            Node::Calendar => leaf("text/calendar", "", &format!("BEGIN:VCALENDAR {n}")),
        };
        let is_body = shown && matches!(node, Node::Text { .. });
        self.leaves.push((text.clone(), is_body));
        (text, is_body)
    }

    fn multipart(
        &mut self,
        n: usize,
        kind: &str,
        children: &[Node],
        shown: bool,
    ) -> (String, bool) {
        let mut text =
            format!("Content-Type: multipart/{kind}; boundary=\"b{n}.\"\r\n\r\npreamble {n}\r\n");
        let mut found = false;
        for (place, child) in children.iter().enumerate() {
            let may = match kind {
                "alternative" => shown,
                "related" => shown && place == 0,
                _ => shown && !found,
            };
            let (part, has_body) = self.write(child, may);
            found |= has_body;
            text.push_str(&format!("--b{n}.\r\n{part}\r\n"));
        }
        text.push_str(&format!("--b{n}.--\r\nepilogue {n}"));
        (text, found)
    }
}

fn texts(before: &str, after: &str) -> Texts {
    let text = |words: &str| -> Option<Arc<Text>> {
        let wording = Disclaimer::new(Some(words), None, false).expect("sound");
        wording.for_sender(&[]).expect("fixed")
    };
    Texts {
        prepend: text(before),
        append: text(after),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_body_gets_the_text_and_every_other_part_stays(tree in node(), utf8: bool) {
        let mut writer = Writer::default();
        let (root, has_body) = writer.write(&tree, true);
        let root_is_calendar = matches!(tree, Node::Calendar);
        let message = format!("From: a@b.example\r\nMIME-Version: 1.0\r\n{root}\r\n");
        let texts = match utf8 {
            true => texts("Vorher — ж", "Nachher 😀"),
            false => texts("BEFORE", "AFTER"),
        };
        let edited = edit(message.as_bytes(), &texts, SignedPolicy::Skip);
        if root_is_calendar {
            prop_assert!(edited.is_err());
            return Ok(());
        }
        let edited = edited.expect("nothing is signed");
        let written = String::from_utf8(apply(message.as_bytes(), &edited.splices)).expect("as it was");
        let bodies = writer.leaves.iter().filter(|(_, is_body)| *is_body).count();
        match has_body {
            true => prop_assert_eq!(edited.parts.len(), bodies),
            false => prop_assert!(matches!(edited.parts[..], [ref part] if matches!(part.method, EditMethod::SeparatePart(_)))),
        }
        // Parts that are no body, preambles and epilogues stand there as often as they did.
        for (leaf, is_body) in &writer.leaves {
            let is_root = writer.leaves.len() == 1 && !matches!(tree, Node::Multipart(..));
            if !is_body && !is_root {
                prop_assert_eq!(written.matches(leaf.as_str()).count(), message.matches(leaf.as_str()).count(), "{}", leaf);
            }
        }
        for n in 1..=writer.next {
            for word in ["preamble", "epilogue", "file", "attached", "words"] {
                let word = format!("{word} {n}");
                let times = |text: &str| text.matches(&format!("{word}\r\n")).count() + text.matches(&format!("{word}<")).count();
                prop_assert_eq!(times(&written), times(&message), "{}", word);
            }
        }
        // What was made is a message whose bodies are where they were.
        let again = edit(written.as_bytes(), &texts, SignedPolicy::Skip).expect("it can be edited again");
        prop_assert_eq!(again.parts.len(), if has_body { bodies } else { again.parts.len() });
    }

    #[test]
    fn an_empty_text_changes_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let edited = edit(&bytes, &Texts::default(), SignedPolicy::Wrap).expect("nothing to do");
        prop_assert!(edited.splices.is_empty());
        prop_assert_eq!(apply(&bytes, &edited.splices), bytes);
    }

    #[test]
    fn invalid_messages_become_valid_or_stay_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let texts = texts("BEFORE", "AFTER");
        if let Ok(edited) = edit(&bytes, &texts, SignedPolicy::Wrap) {
            let mut rest = Vec::new();
            let mut at = 0;
            for splice in &edited.splices {
                prop_assert!(at <= splice.range.start && splice.range.end <= bytes.len());
                rest.extend_from_slice(&bytes[at..splice.range.start]);
                at = splice.range.end;
            }
            prop_assert!(apply(&bytes, &edited.splices).len() > rest.len());
        }
    }
}
