//! What the fuzz targets reach of a delivery; built only with `--cfg fuzzing`, see `fuzz/run`.

use std::time::Duration;

use bytes::Bytes;
use lettre::transport::smtp::client::AsyncTokioStream;

use super::{Connection, RecipientOutcome};
use crate::deliver::wire::canonical;
use crate::deliver::{RelaySettings, Tls};
use crate::journal::Item;
use crate::mail::{Address, Content};

/// A delivery over a stream that is open: for each recipient, whether it counts as delivered.
pub async fn deliver(
    stream: Box<dyn AsyncTokioStream>,
    item: &Item,
    original: &Bytes,
    recipients: &[Address],
) -> Result<Vec<bool>, String> {
    let settings = RelaySettings {
        host: "fuzz.invalid".into(),
        port: 25,
        tls: Tls::None,
        ca_file: None,
        login: None,
        connections: 1,
        helo_name: "fuzz.invalid".into(),
        timeout: Duration::from_secs(5),
    };
    let connection = Connection::greet(Box::new(stream), &settings).await?;
    let original = Content::from(original.clone());
    let sent = connection.send(item, &original, recipients).await;
    let delivered = sent
        .outcomes
        .iter()
        .map(|outcome| *outcome == RecipientOutcome::Delivered);
    Ok(delivered.collect())
}

/// A message in segments as it goes over the wire, before dots are stuffed.
pub fn on_the_wire(segments: &[Bytes]) -> Vec<u8> {
    let sent = canonical(segments.iter().cloned().map(Ok));
    sent.flatten().flatten().collect()
}
