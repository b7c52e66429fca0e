//! The digest of an item, by which a damaged row is detected.
//!
//! Computed from the typed item, not from stored values, so that every engine computes the same.
//! The digest covers everything that a delivery depends on and that never changes. The time of the next
//! attempt and the states of the targets change and are left out; originals have a digest of their
//! own, which this one includes.

use ring::digest::{Context, SHA256};

use crate::journal::Item;

/// Facts about an item's message that its digest covers.
pub(super) struct MessageFacts<'a> {
    /// Time of reception, in milliseconds since 1970.
    pub(super) received: i64,
    /// Size of the original in bytes.
    pub(super) size: u64,
    /// SHA-256 of the original.
    pub(super) sha256: &'a [u8],
}

/// Computes the digest of an item.
pub(super) fn item_digest(item: &Item, message: &MessageFacts<'_>) -> [u8; 32] {
    let mut fields = Fields(Context::new(&SHA256));
    fields.add(item.id.as_str());
    fields.add(item.kind.name());
    fields.add(item.direction.name());
    for address in [&item.sender, &item.ndr] {
        fields.add([u8::from(address.is_some())]);
        fields.add(
            address
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        );
    }
    for text in [&item.message_id, &item.envelope_id, &item.subject] {
        fields.add(text);
    }
    // Lists are stored as one text; its parts are what is read back.
    fields.add_list(item.reasons.join("\n").lines());
    fields.add(item.body.encoding());
    fields.add([u8::from(item.smtputf8)]);
    fields.add(&item.prefix);
    fields.add(&item.suffix);
    fields.add_list(item.dsn.sender.join(" ").split_ascii_whitespace());
    fields.add(message.received.to_be_bytes());
    fields.add(message.size.to_be_bytes());
    fields.add(message.sha256);
    // An engine may return the targets in another order.
    let mut targets: Vec<(String, String)> = (item.targets.iter())
        .map(|target| (target.to_string(), item.dsn.of(target).join(" ")))
        .collect();
    targets.sort_unstable();
    for (address, params) in &targets {
        fields.add(address);
        fields.add_list(params.split_ascii_whitespace());
    }
    let digest = fields.0.finish();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// Fields, each preceded by its length: no two different items give the same bytes.
struct Fields(Context);

impl Fields {
    fn add(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn add_list<'t>(&mut self, texts: impl Iterator<Item = &'t str> + Clone) {
        self.0.update(&(texts.clone().count() as u64).to_be_bytes());
        texts.for_each(|text| self.add(text));
    }
}
