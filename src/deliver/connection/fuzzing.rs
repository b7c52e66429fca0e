//! What the fuzz targets reach of a delivery; built only with `--cfg fuzzing`, see `fuzz/run`.

use std::time::Duration;

use bytes::Bytes;
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::extension::ClientId;

use super::{Connection, Fate, no_panic, sentence};
use crate::deliver::wire::canonical;
use crate::journal::Item;
use crate::mail::{Address, Content};
use crate::smtp::Capabilities;

/// A delivery over a stream that is open: for each recipient, whether it counts as delivered.
pub async fn deliver(
    stream: Box<dyn AsyncTokioStream>,
    item: &Item,
    original: &Bytes,
    recipients: &[Address],
) -> Result<Vec<bool>, String> {
    let hello = ClientId::Domain("fuzz.invalid".into());
    let connecting = AsyncSmtpConnection::connect_with_transport(stream, &hello);
    let mut smtp = no_panic(async { connecting.await.map_err(|error| sentence(&error)) }).await?;
    let hello = smtp.command("EHLO fuzz.invalid\r\n").await;
    let hello = hello.map_err(|error| sentence(&error))?;
    let connection = Connection {
        capabilities: Capabilities::from_lines(hello.message().skip(1)),
        smtp,
        timeout: Duration::from_secs(5),
    };
    let original = Content::from(original.clone());
    let sent = connection.send(item, &original, recipients).await;
    let delivered = sent.fates.iter().map(|fate| *fate == Fate::Delivered);
    Ok(delivered.collect())
}

/// A message in segments as it goes over the wire, before dots are stuffed.
pub fn on_the_wire(segments: &[Bytes]) -> Vec<u8> {
    let sent = canonical(segments.iter().cloned().map(Ok));
    sent.flatten().flatten().collect()
}
