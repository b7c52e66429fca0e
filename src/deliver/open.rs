//! How a connection to the relay is made: TCP, greeting, EHLO, TLS, login.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::channel::{Channel, EncryptError, Transport, encrypted};
use super::connection::Connection;
use super::{Login, RelaySettings, Tls};
use crate::net::{PromptTcp, tls_client_config, unchecked_tls_client_config};
use crate::smtp::{Answer, Capabilities};

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

impl Connection {
    /// Connects, greets, encrypts and logs in, as the settings say. Each step has a time of its own (RFC 5321 section
    /// 4.5.3.2).
    pub(super) async fn open(settings: &RelaySettings) -> Result<Connection, RelayError> {
        let opened = Connection::set_up(settings).await;
        opened.map_err(|what| RelayError {
            relay: settings.name(),
            what,
        })
    }

    async fn set_up(settings: &RelaySettings) -> Result<Connection, String> {
        let tcp = TcpStream::connect((settings.host.as_str(), settings.port));
        let tcp = tokio::time::timeout(CONNECT.min(settings.timeout), tcp).await;
        let tcp = tcp.map_err(|_| "cannot connect: it does not answer".to_owned())?;
        let tcp = tcp.map_err(|error| format!("cannot connect: {error}"))?;
        // Or the end of the data waits until the relay's system has acknowledged what came before it, which takes tens
        // of milliseconds in which a crash makes a duplicate.
        tcp.set_nodelay(true)
            .map_err(|error| format!("cannot connect: {error}"))?;
        let mut stream: Box<dyn Transport> = Box::new(PromptTcp::new(tcp));
        let mut certificate = None;
        if settings.tls == Tls::Implicit {
            let (connector, name) = tls(settings)?;
            let encrypted = encrypted(stream, &connector, name, settings.timeout).await;
            (stream, certificate) = encrypted.map_err(|error| no_tls(&error))?;
        }
        let mut connection = Connection::greet(stream, settings).await?;
        connection.certificate = certificate;
        connection.is_encrypted = settings.tls == Tls::Implicit;
        if matches!(settings.tls, Tls::Opportunistic | Tls::Required) {
            connection.start_tls(settings).await?;
        }
        if let Some(login) = &settings.login {
            if !connection.is_encrypted && !is_loopback(&settings.host) {
                return Err("is not encrypted, so the password is not sent; set relay.tls".into());
            }
            let logged_in = connection.log_in(login).await;
            logged_in.map_err(|why| format!("login as {}: {why}", login.username))?;
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
        // lettre waits for the greeting and says EHLO; the channel lets it come so far only if the relay greets us.
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
        };
        let offers = connection.channel.reply();
        let offers = offers.ok_or_else(|| connection.channel.failure())?;
        connection.hear_offers(&offers, settings).await?;
        Ok(connection)
    }

    /// Takes the answer to EHLO. A relay that does not know it is greeted by HELO, and offers nothing.
    async fn hear_offers(&mut self, offers: &Answer, to: &RelaySettings) -> Result<(), String> {
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
        let helo = helo.map_err(|trouble| format!("HELO: {trouble}"))?;
        match helo.is_positive() {
            true => Ok(()),
            false => Err(format!("HELO: {}", helo.to_reply())),
        }
    }

    /// STARTTLS, where it is offered, and EHLO again.
    async fn start_tls(&mut self, settings: &RelaySettings) -> Result<(), String> {
        if !self.capabilities.starttls {
            return match settings.tls {
                Tls::Required => Err("does not offer STARTTLS, and TLS is \"required\"".into()),
                _ => Ok(()),
            };
        }
        let (connector, name) = tls(settings)?;
        let answer = self.ask("STARTTLS\r\n").await;
        let answer = answer.map_err(|trouble| format!("STARTTLS: {trouble}"))?;
        if answer.code != 220 {
            return Err(format!("STARTTLS: {}", answer.to_reply()));
        }
        let encrypted = self.channel.encrypt(&connector, name).await;
        self.certificate = encrypted.map_err(|error| format!("STARTTLS: {}", no_tls(&error)))?;
        self.is_encrypted = true;
        // What was offered in the clear counts no more (RFC 3207 section 4.2).
        let offers = self.ask(&format!("EHLO {}\r\n", settings.helo_name)).await;
        let offers = offers.map_err(|trouble| format!("EHLO: {trouble}"))?;
        self.hear_offers(&offers, settings).await
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
            let answer = self
                .ask(step)
                .await
                .map_err(|trouble| trouble.to_string())?;
            let expected = if n == last { 235 } else { 334 };
            if answer.code != expected {
                return Err(answer.to_reply().to_string());
            }
        }
        Ok(())
    }
}

fn tls(settings: &RelaySettings) -> Result<(TlsConnector, ServerName<'static>), String> {
    let config = match settings.tls {
        // Encryption against listeners only: whoever offers no certificate that can be checked is not refused, or mail
        // would go in the clear instead (RFC 7435).
        Tls::Opportunistic | Tls::None => unchecked_tls_client_config(),
        Tls::Required | Tls::Implicit => tls_client_config(settings.ca_file.as_deref()),
    };
    let config = config.map_err(|error| match &settings.ca_file {
        Some(_) => format!("relay.ca_file: {error}"),
        None => error.to_string(),
    })?;
    let name = ServerName::try_from(settings.host.clone());
    let name = name.map_err(|_| "its name cannot stand in a certificate".to_owned())?;
    Ok((TlsConnector::from(Arc::clone(&config)), name))
}

fn no_tls(error: &EncryptError) -> String {
    match error {
        EncryptError::Handshake(why) => format!("TLS handshake failed: {why}"),
        EncryptError::Lost(why) => why.clone(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}
