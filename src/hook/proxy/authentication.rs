//! STARTTLS, AUTH, XCLIENT and XFORWARD.

use bytes::Bytes;

use tokio::time::Instant;

use super::client::SessionEnd;
use super::offers::OfferedExtensions;
use super::session::{Link, Session};
use crate::mail::{Enhanced, Reply};
use crate::smtp::parse_auth_user;

/// Longest SASL exchange, in challenges.
const MAX_CHALLENGES: usize = 10;

impl Session {
    pub(super) async fn start_tls(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        let terms = self.terms.clone();
        let Some(tls) = terms
            .server_tls
            .as_ref()
            .filter(|_| !link.client.is_tls() && !self.is_authenticated)
        else {
            self.bad_sequence(link, "STARTTLS is not offered now");
            return Ok(());
        };
        if self.transaction.is_some() {
            self.end_transaction();
            self.command(link, b"RSET").await?;
        }
        link.client
            .reply(&Reply::new(220, Enhanced(2, 0, 0), "Ready to start TLS"));
        link.client.flush().await?;
        link.client.encrypt(tls).await?;
        // Everything the client sent before TLS is discarded (RFC 3207 section 4.2).
        self.offers = OfferedExtensions::default();
        self.has_greeted = false;
        self.greeting_since = Instant::now();
        Ok(())
    }

    /// Proxies an AUTH exchange. Keeps only the user name.
    pub(super) async fn auth(
        &mut self,
        link: &mut Link,
        line: &[u8],
        mechanism: &str,
        initial: Option<String>,
    ) -> Result<(), SessionEnd> {
        if !self.offers.auth || self.is_authenticated || self.transaction.is_some() {
            self.bad_sequence(link, "AUTH is not offered now");
            return Ok(());
        }
        link.hop.set_client_specific();
        let mut responses: Vec<Bytes> = initial.into_iter().map(Bytes::from).collect();
        let mut answer = self.command(link, line).await?;
        let mut challenges = 0;
        while answer.code == 334 && challenges < MAX_CHALLENGES {
            challenges += 1;
            link.client.forward(&answer);
            let Ok(response) = link.client.line(self.deadline(), None).await? else {
                self.invalid_command(link, "Line too long, or with a bare line break")?;
                // Cancels the exchange (RFC 4954 section 4).
                self.command(link, b"*").await?;
                return Ok(());
            };
            answer = self.command(link, &response).await?;
            responses.push(response);
        }
        if answer.code == 334 {
            // Otherwise the next command would be taken for another response.
            answer = self.command(link, b"*").await?;
        }
        link.client.forward(&answer);
        if answer.code == 235 {
            self.is_authenticated = true;
            let user = parse_auth_user(mechanism, &responses);
            self.identity
                .set_user(Some(user.unwrap_or_else(|| mechanism.to_ascii_lowercase())));
        }
        Ok(())
    }

    pub(super) async fn xclient(
        &mut self,
        link: &mut Link,
        line: &[u8],
        attributes: &[(String, String)],
    ) -> Result<(), SessionEnd> {
        if !self.may_forward_identity() || self.transaction.is_some() {
            return self.not_allowed(link);
        }
        if !self.offers.xclient {
            self.identity.apply_xclient(attributes);
            self.count_client()?;
            link.client.write(&link.hop.greeting);
            return Ok(());
        }
        link.hop.set_client_specific();
        if self.forward(link, line).await?.is_positive() {
            self.identity.apply_xclient(attributes);
            self.count_client()?;
            self.offers = OfferedExtensions::default();
        }
        Ok(())
    }

    pub(super) async fn xforward(
        &mut self,
        link: &mut Link,
        line: &[u8],
        attributes: &[(String, String)],
    ) -> Result<(), SessionEnd> {
        if !self.may_forward_identity() || self.transaction.is_some() {
            return self.not_allowed(link);
        }
        let is_taken = match self.offers.xforward {
            true => {
                link.hop.set_client_specific();
                self.forward(link, line).await?.is_positive()
            }
            false => {
                link.client.reply(&Reply::new(250, Enhanced(2, 0, 0), "Ok"));
                true
            }
        };
        if is_taken {
            self.identity.apply_xforward(attributes);
        }
        Ok(())
    }

    fn not_allowed(&self, link: &mut Link) -> Result<(), SessionEnd> {
        link.client.reply(&Reply::new(
            550,
            Enhanced(5, 7, 1),
            "Not authorized, or in a transaction",
        ));
        Ok(())
    }
}
