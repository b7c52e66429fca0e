//! The body parts of a message: the text displayed first, in each of its alternatives.

use super::structure::{Mime, Part, Tree};

/// The reason why a text cannot be inserted into a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// multipart/signed, S/MIME, or signed by PGP in the body itself.
    #[error("it is signed")]
    Signed,
    /// multipart/encrypted, S/MIME, or encrypted by PGP in the body itself.
    #[error("it is encrypted")]
    Encrypted,
    /// A delivery report, a read report or another multipart/report.
    #[error("it is a report")]
    Report,
    /// A fragment of a message, or a reference to one (RFC 2046 section 5.2).
    #[error("it is a fragment of a message or a reference to one")]
    Partial,
    /// An invitation without other content; programs expect it at the top level of a message.
    #[error("it is an invitation")]
    Invitation,
    /// The body is RTF or TNEF.
    #[error("its body is neither plain text nor HTML")]
    RichText,
    /// The texts are already present and should appear once.
    #[error("it already has the text")]
    Repeated,
    /// Mail clients would disagree about its parts.
    #[error("its structure is ambiguous")]
    Ambiguous,
    /// There is no body that text could be inserted into.
    #[error("it has no text body")]
    NoText,
    /// The charset or transfer encoding is unknown, or the content does not match it.
    #[error("its charset or transfer encoding cannot be determined")]
    Charset,
    /// The HTML has no position where a text would be visible.
    #[error("its HTML has no position for a text")]
    Html,
}

/// The treatment of an obstacle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    /// The message stays unchanged.
    Unchanged,
    /// The whole message becomes a part, next to a part with the text.
    WrapMessage,
    /// The text becomes a separate part next to the affected one.
    WrapPart,
}

/// The treatment of signed or encrypted messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignedPolicy {
    /// They stay unchanged.
    #[default]
    Skip,
    /// They become an unchanged part, next to a part with the text.
    Wrap,
}

impl Obstacle {
    /// Returns the treatment of this obstacle; the only place that decides it. A report, a fragment
    /// or an Outlook-only body would be useless inside a multipart.
    pub(super) fn fallback(self, signed: SignedPolicy) -> Fallback {
        match self {
            Obstacle::Signed | Obstacle::Encrypted => match signed {
                SignedPolicy::Skip => Fallback::Unchanged,
                SignedPolicy::Wrap => Fallback::WrapMessage,
            },
            Obstacle::Report
            | Obstacle::Partial
            | Obstacle::Invitation
            | Obstacle::RichText
            | Obstacle::Repeated => Fallback::Unchanged,
            Obstacle::Ambiguous | Obstacle::NoText => Fallback::WrapMessage,
            Obstacle::Charset | Obstacle::Html => Fallback::WrapPart,
        }
    }

    /// Returns its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Obstacle::Signed => "signed",
            Obstacle::Encrypted => "encrypted",
            Obstacle::Report => "report",
            Obstacle::Partial => "partial",
            Obstacle::Invitation => "invitation",
            Obstacle::RichText => "rich_text",
            Obstacle::Repeated => "repeated",
            Obstacle::Ambiguous => "ambiguous",
            Obstacle::NoText => "no_text",
            Obstacle::Charset => "charset",
            Obstacle::Html => "html",
        }
    }
}

/// Most alternatives of a body.
const MOST_BODIES: usize = 16;

/// A part that gets text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyPart {
    /// The index of the part in the tree.
    pub(super) part: usize,
    /// Whether it is displayed first: it gets the text before the body.
    pub(super) first: bool,
    /// Whether it is displayed last: it gets the text after the body.
    pub(super) last: bool,
}

/// Returns the parts that get text, in their order in the message.
pub(super) fn bodies(tree: &Tree) -> Result<Vec<BodyPart>, Obstacle> {
    if tree.ambiguous {
        return Err(Obstacle::Ambiguous);
    }
    let mut search = Search { tree, rich: false };
    let found = search.within(0, true)?;
    // No real message has so many alternatives; this one is an attempt to waste time.
    if found.len() > MOST_BODIES {
        return Err(Obstacle::Ambiguous);
    }
    for place in &found {
        if tree.parts[place.part].mime.contradictory {
            return Err(Obstacle::Ambiguous);
        }
    }
    match found.is_empty() {
        false => Ok(found),
        true if search.rich => Err(Obstacle::RichText),
        true => Err(Obstacle::NoText),
    }
}

struct Search<'a> {
    tree: &'a Tree,
    /// Whether a rich text body was found.
    rich: bool,
}

impl Search<'_> {
    /// Returns the bodies in a part; none if it is an attachment or has only attachments. Recursion
    /// is bounded by [`super::structure::DEEPEST`]. `shown` means that nothing else could be
    /// displayed in its place: the message itself, the root of a multipart/related.
    fn within(&mut self, index: usize, shown: bool) -> Result<Vec<BodyPart>, Obstacle> {
        let part = &self.tree.parts[index];
        let mime = &part.mime;
        let attached = mime.attachment || (mime.filed && !shown);
        if mime.kind == "multipart" && mime.contradictory {
            return Err(Obstacle::Ambiguous);
        }
        match (mime.kind.as_str(), mime.subtype.as_str()) {
            // Without such a part the type alone means nothing: mail clients display it as ordinary
            // mail.
            ("multipart", "signed") if self.has_signature(part) => Err(Obstacle::Signed),
            ("multipart", "encrypted") if self.has_ciphertext(part) => Err(Obstacle::Encrypted),
            ("multipart", "report") if self.has_report(part) => Err(Obstacle::Report),
            ("multipart", "alternative") => {
                let mut found = Vec::new();
                for &child in &part.children {
                    found.extend(self.within(child, false)?);
                }
                Ok(found)
            }
            ("multipart", "related") => match self.root_of(part) {
                Some(root) => self.within(root, true),
                None => Ok(Vec::new()),
            },
            ("multipart", _) => self.first_of(part),
            ("message", "partial" | "external-body") if index == 0 => Err(Obstacle::Partial),
            ("message", "delivery-status" | "disposition-notification") if index == 0 => {
                Err(Obstacle::Report)
            }
            ("application", "pkcs7-mime" | "x-pkcs7-mime")
                if index == 0 || !(mime.attachment || mime.filed) =>
            {
                Err(Obstacle::Encrypted)
            }
            // Recognized by its name, as mail clients do after a gateway changed the type (RFC 8551
            // section 3.2.1).
            ("application", "octet-stream") if index == 0 && is_smime(&mime.name) => {
                Err(Obstacle::Encrypted)
            }
            ("text", "calendar") if index == 0 => Err(Obstacle::Invitation),
            _ if attached => Ok(Vec::new()),
            // A file of any type (RFC 2045 section 5.2 treats an unreadable type as plain text).
            ("", _) if mime.unreadable && (mime.filed || !mime.name.is_empty()) => Ok(Vec::new()),
            ("text", "plain" | "html") | ("", _) => Ok(vec![BodyPart {
                part: index,
                first: true,
                last: true,
            }]),
            ("text", "rtf" | "richtext" | "enriched")
            | ("application", "rtf" | "ms-tnef" | "vnd.ms-tnef") => {
                self.rich = true;
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Returns the bodies in the first part that has any.
    fn first_of(&mut self, part: &Part) -> Result<Vec<BodyPart>, Obstacle> {
        // Exchange converts multipart/encrypted to this, and mail clients convert it back.
        let is_pgp = |&child: &usize| {
            let mime = &self.tree.parts[child].mime;
            mime.is("application", "pgp-encrypted")
        };
        if part.children.iter().any(is_pgp) {
            return Err(Obstacle::Encrypted);
        }
        for (number, &child) in part.children.iter().enumerate() {
            let mut found = self.within(child, false)?;
            if found.is_empty() {
                continue;
            }
            if let [only] = &mut found[..]
                && only.part == child
                && let Some(last) = self.last_of(child, &part.children[number + 1..])
            {
                only.last = false;
                found.push(BodyPart {
                    part: last,
                    first: false,
                    last: true,
                });
            }
            return Ok(found);
        }
        Ok(Vec::new())
    }

    /// Returns the last piece of a body that Apple Mail split around inline files: the pieces have
    /// one type and no names, and the files between them are displayed in place.
    fn last_of(&self, first: usize, rest: &[usize]) -> Option<usize> {
        let mime = |index: usize| &self.tree.parts[index].mime;
        let is_piece = |index: usize| {
            let piece = mime(index);
            piece.kind == "text"
                && piece.is(&mime(first).kind, &mime(first).subtype)
                && !(piece.attachment || piece.filed || piece.contradictory)
        };
        let file = rest
            .iter()
            .position(|&index| mime(index).inline && mime(index).kind != "text")?;
        let last = rest[file..].iter().rposition(|&index| is_piece(index))?;
        Some(rest[file + last])
    }

    fn children<'b>(&'b self, part: &'b Part) -> impl Iterator<Item = &'b Part> {
        part.children.iter().map(|&child| &self.tree.parts[child])
    }

    /// Whether a multipart/signed has a signature (RFC 1847 section 2.1).
    fn has_signature(&self, part: &Part) -> bool {
        self.children(part).skip(1).any(|child| {
            let mime = &child.mime;
            let named = format!("{}/{}", mime.kind, mime.subtype);
            let is_one = mime.subtype.contains("signature") || named == part.mime.protocol;
            mime.kind == "application" && is_one && !child.body.is_empty()
        })
    }

    /// Whether a multipart/encrypted has a part that is not text (RFC 1847 section 2.2).
    fn has_ciphertext(&self, part: &Part) -> bool {
        let mut children = self.children(part);
        children.any(|child| child.mime.kind == "application" && !child.body.is_empty())
    }

    /// Whether a multipart/report has a part for programs (RFC 6522 section 3).
    fn has_report(&self, part: &Part) -> bool {
        let report_type = part.mime.report_type.as_str();
        self.children(part).any(|child| {
            let Mime { kind, subtype, .. } = &child.mime;
            let is_attached = matches!(
                subtype.as_str(),
                "rfc822" | "global" | "partial" | "external-body"
            );
            let is_named = !report_type.is_empty() && subtype.starts_with(report_type);
            kind == "message" && !is_attached || kind == "application" && is_named
        })
    }

    /// Returns the root of a multipart/related: the part that `start` names, or the first (RFC 2387
    /// section 3.2).
    fn root_of(&self, part: &Part) -> Option<usize> {
        let bare = |id: &str| id.trim_matches(['<', '>', ' ']).to_owned();
        let named = part.mime.start.as_deref().map(bare);
        let is_named = |&&child: &&usize| {
            named.is_some() && Some(bare(&self.tree.parts[child].mime.id)) == named
        };
        part.children
            .iter()
            .find(is_named)
            .or(part.children.first())
            .copied()
    }
}

fn is_smime(name: &str) -> bool {
    [".p7m", ".p7s", ".p7c"]
        .iter()
        .any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: &str, body: &str) -> String {
        format!("Content-Type: {kind}\r\n\r\n{body}")
    }

    fn multipart(subtype: &str, name: &str, parts: &[String]) -> String {
        let inner: String = parts
            .iter()
            .map(|p| format!("--{name}\r\n{p}\r\n"))
            .collect();
        part(
            &format!("multipart/{subtype}; boundary={name}"),
            &format!("{inner}--{name}--\r\n"),
        )
    }

    fn chosen(message: &str) -> Result<Vec<String>, Obstacle> {
        let tree = Tree::of(message.as_bytes());
        let text = |index: usize| message[tree.parts[index].body.clone()].to_owned();
        let found = bodies(&tree)?;
        Ok(found.into_iter().map(|place| text(place.part)).collect())
    }

    #[test]
    fn the_body_displayed_first_is_chosen_in_each_alternative() {
        let plain = part("text/plain", "plain");
        let html = part("text/html", "html");
        let attached =
            "Content-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nfile".to_owned();
        let filed =
            "Content-Type: text/html\r\nContent-Disposition: inline; filename=a.html\r\n\r\nhtml";
        assert_eq!(chosen(filed).expect("a body"), ["html"]);
        assert_eq!(
            chosen(&multipart("related", "r", &[filed.to_owned()])).expect("a body"),
            ["html"]
        );
        let picture = part("image/png", "png");
        let message = part("message/rfc822", &part("text/plain", "inner"));
        let related = multipart("related", "r", &[html.clone(), picture]);
        let alternative = multipart("alternative", "a", &[plain.clone(), related]);
        let mixed = multipart(
            "mixed",
            "m",
            &[
                message.clone(),
                attached.clone(),
                alternative,
                plain.clone(),
            ],
        );
        assert_eq!(chosen(&mixed).expect("bodies"), ["plain", "html"]);
        assert_eq!(chosen(&plain).expect("a body"), ["plain"]);
        assert_eq!(chosen("\r\nbare").expect("a body"), ["bare"]);
        assert_eq!(
            chosen(&multipart("mixed", "m", &[message, attached])),
            Err(Obstacle::NoText)
        );
    }

    #[test]
    fn signed_encrypted_and_special_messages_are_obstacles() {
        let plain = part("text/plain", "plain");
        let of = |subtype: &str| {
            let second = match subtype {
                "signed" => "application/pgp-signature",
                "encrypted" => "application/octet-stream",
                _ => "message/delivery-status",
            };
            multipart(subtype, "b", &[plain.clone(), part(second, "x")])
        };
        assert_eq!(chosen(&of("signed")), Err(Obstacle::Signed));
        assert_eq!(
            chosen(&multipart("mixed", "m", &[of("signed"), plain.clone()])),
            Err(Obstacle::Signed)
        );
        assert_eq!(chosen(&of("encrypted")), Err(Obstacle::Encrypted));
        assert_eq!(chosen(&of("report")), Err(Obstacle::Report));
        assert_eq!(
            chosen(&part("application/pkcs7-mime", "x")),
            Err(Obstacle::Encrypted)
        );
        assert_eq!(
            chosen(&part("message/partial; id=a", "x")),
            Err(Obstacle::Partial)
        );
        assert_eq!(
            chosen(&part("application/ms-tnef", "x")),
            Err(Obstacle::RichText)
        );
        let named = "application/octet-stream; name=smime.p7m";
        assert_eq!(chosen(&part(named, "x")), Err(Obstacle::Encrypted));
        let pgp = [
            plain.clone(),
            part("application/pgp-encrypted", "Version: 1"),
        ];
        assert_eq!(
            chosen(&multipart("mixed", "m", &pgp)),
            Err(Obstacle::Encrypted)
        );
        assert_eq!(
            chosen(&part("text/calendar", "x")),
            Err(Obstacle::Invitation)
        );
        let twice = format!("Content-Type: text/html\r\n{plain}");
        assert_eq!(chosen(&twice), Err(Obstacle::Ambiguous));
        let tls = [plain, part("application/tlsrpt+gzip", "x")];
        let tls = multipart("report; report-type=tlsrpt", "b", &tls);
        assert_eq!(
            chosen(&tls.replace("b--b", "b\r\n--b")),
            Err(Obstacle::Report)
        );
    }

    #[test]
    fn a_type_without_its_special_part_is_ordinary() {
        let html = part("text/html", "html");
        for subtype in ["signed", "encrypted", "report"] {
            for others in [
                &[][..],
                &[part("text/plain", "other")],
                &[part("message/rfc822", &html)],
                &[part("application/pgp-signature", "")],
            ] {
                if subtype == "report" && others.len() > 1 {
                    continue;
                }
                let parts = [std::slice::from_ref(&html), others].concat();
                let found = chosen(&multipart(subtype, "b", &parts));
                assert_eq!(found.as_deref(), Ok(&["html".to_owned()][..]), "{subtype}");
            }
        }
    }

    #[test]
    fn an_unreadable_type_with_a_name_is_a_file() {
        let plain = part("text/plain", "plain");
        for kind in [
            "pdf; name=\"invoice.pdf\"",
            "pdf;\r\n name=invoice.pdf",
            "pdf\r\nContent-Disposition: inline; filename=a.pdf",
        ] {
            let found = chosen(&multipart(
                "mixed",
                "m",
                &[part(kind, "file"), plain.clone()],
            ));
            assert_eq!(found.as_deref(), Ok(&["plain".to_owned()][..]), "{kind}");
            assert_eq!(chosen(&part(kind, "file")), Err(Obstacle::NoText), "{kind}");
        }
        assert!(chosen(&part("plain", "text")).is_ok());
    }

    #[test]
    fn a_body_split_by_files_begins_and_ends_in_two_parts() {
        let html = |text: &str| part("text/html", text);
        let pdf = part(
            "application/pdf\r\nContent-Disposition: inline; filename=a.pdf",
            "pdf",
        );
        let attached = part("application/pdf\r\nContent-Disposition: attachment", "pdf");
        let footer = part("text/plain", "footer");
        for (parts, expected) in [
            (vec![html("a"), pdf.clone(), html("b")], vec!["a", "b"]),
            (
                vec![html("a"), pdf.clone(), html("b"), pdf.clone(), html("c")],
                vec!["a", "c"],
            ),
            (vec![html("a"), pdf.clone(), footer.clone()], vec!["a"]),
            (vec![html("a"), attached, html("b")], vec!["a"]),
            (vec![html("a"), html("b")], vec!["a"]),
            (vec![pdf.clone(), html("a")], vec!["a"]),
        ] {
            let found = chosen(&multipart("mixed", "m", &parts)).expect("bodies");
            assert_eq!(found, expected);
        }
    }
}
