//! Discovery of LDAP servers by DNS SRV records (RFC 2782), as Active Directory publishes them.
//!
//! A discovered server is used over TLS only: `_ldaps._tcp` as published; `_ldap._tcp` with
//! StartTLS if configured, or else on port 636.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use hickory_resolver::proto::rr::RData;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::time::timeout;

use super::url::{ServerUrl, UrlError};

/// Time limit for one DNS query.
const DNS_TIMEOUT: Duration = Duration::from_secs(3);

/// One entry of `directory.urls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServerSpec {
    /// A server.
    Url(ServerUrl),
    /// The servers of a DNS domain, `srv:example.com`.
    Domain(String),
}

impl ServerSpec {
    /// Parses one value of `directory.urls`.
    pub(super) fn parse(text: &str, starttls: bool) -> Result<ServerSpec, UrlError> {
        let text = text.trim();
        let domain = text
            .get(..4)
            .filter(|head| head.eq_ignore_ascii_case("srv:"));
        match domain.map(|_| text[4..].trim().trim_end_matches('.')) {
            Some("") => Err(UrlError::NoHost(text.to_owned())),
            Some(domain) => Ok(ServerSpec::Domain(domain.to_lowercase())),
            None => ServerUrl::parse(text, starttls).map(ServerSpec::Url),
        }
    }

    /// Whether connections use TLS.
    pub(super) fn uses_tls(&self, starttls: bool) -> bool {
        match self {
            ServerSpec::Url(url) => url.uses_tls(starttls),
            ServerSpec::Domain(_) => true,
        }
    }
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SrvRecord {
    priority: u16,
    weight: u16,
    port: u16,
    host: String,
}

/// Returns the servers in the order of preference, and the problems of finding them.
pub(super) async fn resolve_servers(
    specs: &[ServerSpec],
    starttls: bool,
) -> (Vec<ServerUrl>, Vec<String>) {
    let (mut urls, mut problems) = (Vec::new(), Vec::new());
    for one in specs {
        let found = match one {
            ServerSpec::Url(url) => Ok(vec![url.clone()]),
            ServerSpec::Domain(domain) => {
                match TokioResolver::builder_tokio().map(ResolverBuilder::build) {
                    Ok(Ok(resolver)) => resolve_domain(&resolver, domain, starttls).await,
                    Ok(Err(error)) | Err(error) => Err(format!("cannot query the DNS: {error}")),
                }
            }
        };
        match found {
            Ok(found) => urls.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    (urls, problems)
}

async fn resolve_domain(
    resolver: &TokioResolver,
    domain: &str,
    starttls: bool,
) -> Result<Vec<ServerUrl>, String> {
    // StartTLS needs the plain port.
    let names: &[&str] = match starttls {
        true => &["_ldap._tcp"],
        false => &["_ldaps._tcp", "_ldap._tcp"],
    };
    let mut problems = Vec::new();
    for service in names {
        let name = format!("{service}.{domain}.");
        match timeout(DNS_TIMEOUT, resolver.srv_lookup(name.as_str())).await {
            Ok(Ok(found)) => {
                let services = found
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::SRV(srv) => Some(SrvRecord {
                            priority: srv.priority,
                            weight: srv.weight,
                            port: srv.port,
                            host: srv.target.to_ascii().trim_end_matches('.').to_owned(),
                        }),
                        _ => None,
                    });
                // The target "." means that there is no such service.
                let services = services
                    .filter(|service| !service.host.is_empty())
                    .collect();
                let urls = order_by_priority(services, random).into_iter();
                let urls = urls.map(|one| match (*service, starttls) {
                    ("_ldaps._tcp", _) => format!("ldaps://{}:{}", one.host, one.port),
                    (_, true) => format!("ldap://{}:{}", one.host, one.port),
                    (_, false) => format!("ldaps://{}", one.host),
                });
                let urls: Vec<ServerUrl> = urls
                    .filter_map(|url| ServerUrl::parse(&url, starttls).ok())
                    .collect();
                if !urls.is_empty() {
                    return Ok(urls);
                }
                problems.push(format!("{name} names no server"));
            }
            Ok(Err(error)) => problems.push(format!("{name} {error}")),
            Err(_) => problems.push(format!("no answer for {name} within {DNS_TIMEOUT:?}")),
        }
    }
    Err(format!("srv:{domain}: {}", problems.join("; ")))
}

/// Orders records by priority, and within one at random by weight (RFC 2782). `random` returns a
/// number below its argument.
fn order_by_priority(
    mut services: Vec<SrvRecord>,
    mut random: impl FnMut(u64) -> u64,
) -> Vec<SrvRecord> {
    services.sort_by_key(|service| (service.priority, service.weight != 0));
    let mut ordered = Vec::new();
    while let Some(first) = services.first() {
        let priority = first.priority;
        let same = services.iter().take_while(|one| one.priority == priority);
        let weights: Vec<u64> = same.map(|one| u64::from(one.weight)).collect();
        let mut left = random(weights.iter().sum::<u64>() + 1);
        let chosen = weights.iter().position(|weight| {
            let here = left <= *weight;
            left = left.saturating_sub(*weight);
            here
        });
        ordered.push(services.remove(chosen.unwrap_or(0)));
    }
    ordered
}

/// Returns a random number below `end`.
fn random(end: u64) -> u64 {
    RandomState::new().hash_one(0) % end.max(1)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;

    use super::*;

    fn service(priority: u16, weight: u16, host: &str) -> SrvRecord {
        SrvRecord {
            priority,
            weight,
            port: 389,
            host: host.to_owned(),
        }
    }

    #[test]
    fn priority_comes_first_and_weight_is_chance() {
        let all = || {
            vec![
                service(20, 0, "last"),
                service(10, 0, "never"),
                service(10, 70, "often"),
                service(10, 30, "seldom"),
            ]
        };
        let hosts = |random: fn(u64) -> u64| -> Vec<String> {
            order_by_priority(all(), random)
                .into_iter()
                .map(|one| one.host)
                .collect()
        };
        assert_eq!(hosts(|_| 0), ["never", "often", "seldom", "last"]);
        assert_eq!(hosts(|end| end - 1), ["seldom", "often", "never", "last"]);
        assert_eq!(hosts(|end| end / 2), ["often", "seldom", "never", "last"]);
    }

    #[test]
    fn a_domain_is_distinguished_from_a_server() {
        assert_eq!(
            ServerSpec::parse(" SRV:Example.com. ", false),
            Ok(ServerSpec::Domain("example.com".into()))
        );
        assert!(ServerSpec::parse("srv:", false).is_err());
        assert!(matches!(
            ServerSpec::parse("ldap://srv", false),
            Ok(ServerSpec::Url(_))
        ));
    }

    /// A name server that knows two servers of `_ldap._tcp.example.test` and nothing else.
    fn name_server() -> u16 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = socket.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                // The name begins behind the header of twelve bytes and ends with an empty label.
                let end = 12 + packet[12..length].iter().position(|o| *o == 0).unwrap_or(0) + 5;
                let known = packet[12..length].starts_with(b"\x05_ldap\x04_tcp");
                let mut answer = packet[..end].to_vec();
                let (flags, count) = if known {
                    (0x8180_u16, 2_u16)
                } else {
                    (0x8183, 0)
                };
                answer[2..4].copy_from_slice(&flags.to_be_bytes());
                answer[6..8].copy_from_slice(&count.to_be_bytes());
                answer[8..12].fill(0);
                for (priority, host) in [(20_u16, b"\x03dc2"), (10, b"\x03dc1")]
                    .iter()
                    .filter(|_| known)
                {
                    let target = [host.as_slice(), b"\x07example\x04test\x00"].concat();
                    let data = [
                        &priority.to_be_bytes()[..],
                        &0_u16.to_be_bytes(),
                        &389_u16.to_be_bytes(),
                        &target,
                    ]
                    .concat();
                    let length = u16::try_from(data.len()).expect("short").to_be_bytes();
                    answer.extend(b"\xc0\x0c\x00\x21\x00\x01\x00\x00\x00\x3c");
                    answer.extend(length);
                    answer.extend(data);
                }
                let _ = socket.send_to(&answer, from);
            }
        });
        port
    }

    #[tokio::test]
    async fn a_domain_s_servers_are_found_and_only_spoken_to_over_tls() {
        let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
        server.connections[0].port = name_server();
        let config = ResolverConfig::from_name_servers(vec![server]);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .build()
            .expect("a resolver");
        let found = async |domain: &str, starttls: bool| {
            let urls = resolve_domain(&resolver, domain, starttls).await?;
            Ok::<_, String>(urls.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            found("example.test", false).await,
            Ok(vec![
                "ldaps://dc1.example.test".into(),
                "ldaps://dc2.example.test".into()
            ])
        );
        assert_eq!(
            found("example.test", true).await,
            Ok(vec![
                "ldap://dc1.example.test:389".into(),
                "ldap://dc2.example.test:389".into()
            ])
        );
    }
}
