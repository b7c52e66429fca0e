//! How a connection to the relay is made: TCP, greeting, EHLO, TLS, login.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::channel::{Channel, EncryptError, Transport, encrypted};
use super::connection::Connection;
use super::{Login, RelaySettings, Tls};
use crate::net::{PromptTcp, Server};
use crate::smtp::{Capabilities, ServerReply};
use crate::tls;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(30);

/// Why the relay was not reached. Nothing about an item.
#[derive(Debug, Clone, thiserror::Error)]
#[error("relay {relay}: {what}")]
pub struct RelayError {
    /// `host:port`.
    pub relay: String,
    /// One sentence.
    pub what: String,
}

/// Why a session was not begun.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    /// Asked again at another address, it would only come closer to a locked account.
    #[error("login {0}")]
    Login(String),
    /// The two sides found no encryption that both believe in, or the relay would not begin it.
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Other(String),
}

impl From<EncryptError> for OpenError {
    fn from(error: EncryptError) -> OpenError {
        match error {
            EncryptError::Handshake(why) => OpenError::Tls(format!("TLS handshake failed: {why}")),
            EncryptError::Lost(why) => OpenError::Other(format!("TLS: {why}")),
        }
    }
}

impl From<String> for OpenError {
    fn from(why: String) -> OpenError {
        OpenError::Other(why)
    }
}

impl Connection {
    /// Connects, greets, encrypts and logs in, as the settings say. Each step has a time of its own
    /// (RFC 5321 section 4.5.3.2).
    pub(super) async fn open(
        server: &Server,
        settings: &RelaySettings,
    ) -> Result<Connection, RelayError> {
        let patience = CONNECT.min(settings.timeout);
        let is_final = |error: &OpenError| matches!(error, OpenError::Login(_));
        let begin = |tcp| Connection::set_up(tcp, settings);
        let opened = server.open_session(patience, is_final, begin).await;
        opened.map_err(|error| RelayError {
            relay: settings.name(),
            what: error.to_string(),
        })
    }

    async fn set_up(tcp: TcpStream, settings: &RelaySettings) -> Result<Connection, OpenError> {
        let mut connection = match may_go_unencrypted(settings) {
            true => Connection::begin_opportunistic(tcp, settings).await?,
            false => Connection::begin(tcp, settings, settings.tls).await?,
        };
        if let Some(login) = &settings.login {
            if !connection.is_encrypted && !is_loopback(&settings.host) {
                let why = "is not encrypted, so the password is not sent; set relay.tls";
                return Err(OpenError::Other(why.into()));
            }
            let logged_in = connection.log_in(login).await;
            logged_in.map_err(|why| OpenError::Login(format!("as {}: {why}", login.username)))?;
        }
        Ok(connection)
    }

    /// The session, encrypted where that can be, as with Postfix's `smtp_tls_security_level = may`.
    /// What fails otherwise than by a disagreement about encryption is no reason to do without.
    async fn begin_opportunistic(
        tcp: TcpStream,
        settings: &RelaySettings,
    ) -> Result<Connection, OpenError> {
        let address = tcp.peer_addr().map_err(no_connection)?;
        match Connection::begin(tcp, settings, settings.tls).await {
            Err(OpenError::Tls(why)) => {
                let connecting = TcpStream::connect(address);
                let tcp = timeout(CONNECT.min(settings.timeout), connecting).await;
                let tcp = tcp.map_err(|late| late.to_string())?;
                let tcp = tcp.map_err(no_connection)?;
                let mut connection = Connection::begin(tcp, settings, Tls::None).await?;
                connection.tls_fault = Some(why);
                Ok(connection)
            }
            begun => begun,
        }
    }

    /// The session up to the point where one logs in.
    async fn begin(
        tcp: TcpStream,
        settings: &RelaySettings,
        how: Tls,
    ) -> Result<Connection, OpenError> {
        // Or the end of the data waits until the relay's system has acknowledged what came before
        // it, which takes tens of milliseconds in which a crash makes a duplicate.
        tcp.set_nodelay(true).map_err(no_connection)?;
        let mut stream: Box<dyn Transport> = Box::new(PromptTcp::new(tcp));
        let mut certificate = None;
        if how == Tls::Implicit {
            let (connector, name) = tls(settings)?;
            let encrypted = encrypted(stream, &connector, name, settings.timeout).await;
            (stream, certificate) = encrypted?;
        }
        let mut connection = Connection::greet(stream, settings).await?;
        connection.certificate = certificate;
        connection.is_encrypted = how == Tls::Implicit;
        if matches!(how, Tls::Opportunistic | Tls::Required) {
            connection.start_tls(settings).await?;
        }
        Ok(connection)
    }

    /// Waits for the greeting and says EHLO.
    pub(super) async fn greet(
        stream: Box<dyn Transport>,
        settings: &RelaySettings,
    ) -> Result<Connection, String> {
        let channel = Channel::new(stream, settings.timeout);
        let hello = ClientId::Domain(settings.helo_name.clone());
        // lettre waits for the greeting and says EHLO; the channel lets it come so far only if the
        // relay greets us.
        let connecting =
            AsyncSmtpConnection::connect_with_transport(Box::new(channel.clone()), &hello);
        let smtp = connecting.await.map_err(|_| channel.failure())?;
        let mut connection = Connection {
            smtp,
            channel,
            capabilities: Capabilities::default(),
            timeout: settings.timeout,
            certificate: None,
            is_encrypted: false,
            opened: Instant::now(),
            messages: 0,
            is_deferred: false,
            tls_fault: None,
            counted: None,
        };
        let offers = connection.channel.reply();
        let offers = offers.ok_or_else(|| connection.channel.failure())?;
        connection.hear_offers(&offers, settings).await?;
        Ok(connection)
    }

    /// Takes the answer to EHLO. A relay that does not know it is greeted by HELO, and offers
    /// nothing.
    async fn hear_offers(
        &mut self,
        offers: &ServerReply,
        to: &RelaySettings,
    ) -> Result<(), String> {
        let code = offers.code;
        if offers.is_positive() {
            self.capabilities = Capabilities::from_lines(offers.text_lines().skip(1));
            return Ok(());
        }
        if code == 421 || code < 400 {
            return Err(format!("EHLO: {}", offers.to_reply()));
        }
        self.capabilities = Capabilities::default();
        let helo = self.ask(&format!("HELO {}\r\n", to.helo_name)).await;
        let helo = helo.map_err(|error| format!("HELO: {error}"))?;
        match helo.is_positive() {
            true => Ok(()),
            false => Err(format!("HELO: {}", helo.to_reply())),
        }
    }

    /// STARTTLS, where it is offered, and EHLO again.
    async fn start_tls(&mut self, settings: &RelaySettings) -> Result<(), OpenError> {
        if !self.capabilities.starttls {
            let why = "does not offer STARTTLS, and TLS is \"required\"";
            return match settings.tls {
                Tls::Required => Err(OpenError::Tls(why.into())),
                _ => Ok(()),
            };
        }
        let (connector, name) = tls(settings)?;
        let answer = self.ask("STARTTLS\r\n").await;
        let answer = answer.map_err(|error| format!("STARTTLS: {error}"))?;
        if answer.code != 220 {
            let why = format!("STARTTLS: {}", answer.to_reply());
            return Err(OpenError::Tls(why));
        }
        let encrypted = self.channel.encrypt(&connector, name).await;
        self.certificate = encrypted.map_err(|error| match error {
            EncryptError::Lost(why) => OpenError::Other(format!("STARTTLS: {why}")),
            error => error.into(),
        })?;
        self.is_encrypted = true;
        // What was offered in the clear counts no more (RFC 3207 section 4.2).
        let offers = self.ask(&format!("EHLO {}\r\n", settings.helo_name)).await;
        let offers = offers.map_err(|error| format!("EHLO: {error}"))?;
        Ok(self.hear_offers(&offers, settings).await?)
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), String> {
        let (name, password) = (&login.username, login.password.reveal());
        let offered = self.capabilities.auth;
        let steps = match (offered.plain, offered.login) {
            (true, _) => {
                let credentials = STANDARD.encode(format!("\0{name}\0{password}"));
                vec![format!("AUTH PLAIN {credentials}\r\n")]
            }
            (false, true) => vec![
                "AUTH LOGIN\r\n".to_owned(),
                format!("{}\r\n", STANDARD.encode(name)),
                format!("{}\r\n", STANDARD.encode(password)),
            ],
            (false, false) => {
                return Err("the relay offers neither AUTH PLAIN nor AUTH LOGIN".into());
            }
        };
        let last = steps.len() - 1;
        for (n, step) in steps.iter().enumerate() {
            let answer = self.ask(step).await.map_err(|error| error.to_string())?;
            // As Postfix: some say 250 where RFC 4954 section 4 has 235.
            let is_fine = match n == last {
                true => (200..300).contains(&answer.code),
                false => answer.code == 334,
            };
            if !is_fine {
                return Err(answer.to_reply().to_string());
            }
        }
        Ok(())
    }
}

fn tls(settings: &RelaySettings) -> Result<(TlsConnector, ServerName<'static>), String> {
    let config = match settings.tls {
        // Encryption against listeners only: whoever offers no certificate that can be checked is
        // not refused, or mail would go in the clear instead (RFC 7435).
        Tls::Opportunistic | Tls::None => tls::unverified_client_config(),
        Tls::Required | Tls::Implicit => tls::client_config(settings.ca_file.as_deref()),
    };
    let config = config.map_err(|error| match &settings.ca_file {
        Some(_) => format!("relay.ca_file: {error}"),
        None => error.to_string(),
    })?;
    let name = ServerName::try_from(settings.host.clone());
    let name = name.map_err(|_| "its name cannot stand in a certificate".to_owned())?;
    Ok((TlsConnector::from(Arc::clone(&config)), name))
}

/// Whether mail that was to be encrypted against listeners alone may go in the clear: not with a
/// password, and not where somebody wants certificates checked.
fn may_go_unencrypted(settings: &RelaySettings) -> bool {
    settings.tls == Tls::Opportunistic && settings.login.is_none() && settings.ca_file.is_none()
}

fn no_connection(error: io::Error) -> String {
    format!("cannot connect: {error}")
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}
