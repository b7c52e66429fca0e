//! Who the client is: TLS, logins, and those who may speak for others.

use bytes::Bytes;

use tokio::time::Instant;

use super::client::Ended;
use super::offers::Offers;
use super::session::{Between, Session};
use crate::mail::{Enhanced, Reply};
use crate::smtp::parse_auth_user;

/// Turns of one SASL exchange.
const TURNS: usize = 10;

impl Session {
    pub(super) async fn start_tls(&mut self, between: &mut Between) -> Result<(), Ended> {
        let terms = self.terms.clone();
        let Some(tls) = terms
            .server_tls
            .as_ref()
            .filter(|_| !between.client.is_tls() && !self.is_known)
        else {
            self.bad_sequence(between, "STARTTLS is not offered now");
            return Ok(());
        };
        if self.transaction.is_some() {
            self.end_transaction();
            self.ask(between, b"RSET").await?;
        }
        between
            .client
            .say(&Reply::new(220, Enhanced(2, 0, 0), "Ready to start TLS"));
        between.client.flush().await?;
        between.client.encrypt(tls).await?;
        // All that was said before counts for nothing (RFC 3207 section 4.2).
        self.offers = Offers::default();
        self.has_greeted = false;
        self.greeting_from = Instant::now();
        Ok(())
    }

    /// Passes a login through. What is said is not kept, but for the name.
    pub(super) async fn auth(
        &mut self,
        between: &mut Between,
        line: &[u8],
        mechanism: &str,
        initial: Option<String>,
    ) -> Result<(), Ended> {
        if !self.offers.auth || self.is_known || self.transaction.is_some() {
            self.bad_sequence(between, "AUTH is not offered now");
            return Ok(());
        }
        between.hop.set_marked();
        let mut responses: Vec<Bytes> = initial.into_iter().map(Bytes::from).collect();
        let mut answer = self.ask(between, line).await?;
        let mut turns = 0;
        while answer.code == 334 && turns < TURNS {
            turns += 1;
            between.client.pass(&answer);
            let Ok(response) = between.client.line(self.deadline(), None).await? else {
                self.nonsense(between, "Line too long, or with a bare line break")?;
                // RFC 4954 section 4: the exchange is cancelled so.
                self.ask(between, b"*").await?;
                return Ok(());
            };
            answer = self.ask(between, &response).await?;
            responses.push(response);
        }
        if answer.code == 334 {
            // Else the next command would be taken for one more response.
            answer = self.ask(between, b"*").await?;
        }
        between.client.pass(&answer);
        if answer.code == 235 {
            self.is_known = true;
            let user = parse_auth_user(mechanism, &responses);
            self.identity
                .set_user(Some(user.unwrap_or_else(|| mechanism.to_ascii_lowercase())));
        }
        Ok(())
    }

    pub(super) async fn xclient(
        &mut self,
        between: &mut Between,
        line: &[u8],
        attributes: &[(String, String)],
    ) -> Result<(), Ended> {
        if !self.may_speak_for() || self.transaction.is_some() {
            return self.not_allowed(between);
        }
        if !self.offers.xclient {
            self.identity.become_another(attributes);
            self.count_client()?;
            between.client.put(&between.hop.greeting);
            return Ok(());
        }
        between.hop.set_marked();
        if self.forward(between, line).await?.is_positive() {
            self.identity.become_another(attributes);
            self.count_client()?;
            self.offers = Offers::default();
        }
        Ok(())
    }

    pub(super) async fn xforward(
        &mut self,
        between: &mut Between,
        line: &[u8],
        attributes: &[(String, String)],
    ) -> Result<(), Ended> {
        if !self.may_speak_for() || self.transaction.is_some() {
            return self.not_allowed(between);
        }
        let is_taken = match self.offers.xforward {
            true => {
                between.hop.set_marked();
                self.forward(between, line).await?.is_positive()
            }
            false => {
                between
                    .client
                    .say(&Reply::new(250, Enhanced(2, 0, 0), "Ok"));
                true
            }
        };
        if is_taken {
            self.identity.speak_for(attributes);
        }
        Ok(())
    }

    fn not_allowed(&self, between: &mut Between) -> Result<(), Ended> {
        between.client.say(&Reply::new(
            550,
            Enhanced(5, 7, 1),
            "Not authorized, or not now",
        ));
        Ok(())
    }
}
